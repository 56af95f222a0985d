"""A trimmed vocabulary: the same pieces and the same states, in ours and in `transformers`."""

import json
import shutil
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2 as protocol

from spacy_mluke.checkpoint import EMBEDDED_FOLDER, load_checkpoint, save_checkpoint
from spacy_mluke.cli.pretrain_pieces import trim_cli
from spacy_mluke.piece_models import SENTENCEPIECE_FILE
from spacy_mluke.pretraining import trimming
from spacy_mluke.pretraining.piece_coverage import Coverage
from spacy_mluke.pretraining.trimming import (
    TrimReport,
    check_trimmable,
    choose_pieces,
    count_pieces,
    trim_checkpoint,
)
from spacy_mluke.tokenization import PieceTokenizer
from spacy_mluke.weights import TABLE, TABLE_SHARD, WEIGHTS

from ..conftest import ENTITIES, TEXTS
from ..test_encoder import close, hf_inputs, make_pack, unpad
from ..test_tokenization import (
    any_texts,
    many,
    special_texts,
    train_sentencepiece,
    write_english_tokenizer,
)

COVERED, OTHER = TEXTS[:6], TEXTS[6:]
WORDS = "luke.embeddings.word_embeddings.weight"


# -- the same segmentation -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory):
    """Unigram, its own numbers the ids, bytes for unknown characters, pieces of the user."""
    return train_sentencepiece(
        tmp_path_factory.mktemp("odd"),
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, control_symbols="<mask>,<ent>,<ent2>",
        user_defined_symbols="Wien,asu", byte_fallback=True, vocab_size=550,
        normalization_rule_name="nmt_nfkc",
    )  # fmt: skip


@pytest.fixture(scope="session")
def toy_folder(sentencepiece_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    shutil.copy(sentencepiece_file, folder / SENTENCEPIECE_FILE)
    return folder


@pytest.fixture(scope="session", params=["embedded", "toy", "odd"])
def tokenizer(request):
    if request.param == "embedded":
        return PieceTokenizer(EMBEDDED_FOLDER, "fairseq")
    folder = request.getfixturevalue(f"{request.param}_folder")
    return PieceTokenizer(folder, "sentencepiece" if request.param == "odd" else "fairseq")


def trim_pieces(tokenizer, used, folder):
    """The trimmed tokenizer, and the old id of each new one."""
    model = trimming._read_model(tokenizer, "test")
    kept = trimming._choose(model, set(used), tokenizer)
    rows = trimming._rows(kept, len(model.pieces), max(tokenizer.sizes), tokenizer.layout)
    (folder / SENTENCEPIECE_FILE).write_bytes(trimming._trim_model(model, kept))
    trimmed = PieceTokenizer(folder, tokenizer.layout)
    assert max(trimmed.sizes) == len(rows)
    return trimmed, rows.numpy()


def assert_same(pieces, trimmed, rows):
    assert rows[trimmed.ids].tolist() == pieces.ids.tolist()
    assert trimmed.starts.tolist() == pieces.starts.tolist()
    assert trimmed.ends.tolist() == pieces.ends.tolist()


@settings(many, max_examples=15)
@given(
    corpus=st.lists(st.one_of(any_texts, special_texts, st.sampled_from(TEXTS)), max_size=6),
    others=st.lists(st.one_of(any_texts, st.sampled_from(TEXTS)), max_size=4),
)
def test_covered_texts_are_cut_the_same(tokenizer, tmp_path, corpus, others):
    used = count_pieces(tokenizer, corpus)
    trimmed, rows = trim_pieces(tokenizer, used, tmp_path)
    assert set(used) <= set(rows.tolist())
    assert trimmed.special == {
        name: rows.tolist().index(i) for name, i in tokenizer.special.items()
    }
    for text in corpus:
        assert_same(tokenizer.encode(text), trimmed.encode(text), rows)
    for text in [*others, " ".join([*corpus, *others]), "".join([*corpus, *others])]:
        pieces, new = tokenizer.encode(text), trimmed.encode(text)
        if set(pieces.ids.tolist()) <= set(rows.tolist()):
            assert_same(pieces, new, rows)
        # What was unknown is, and nothing else.
        for before, after in ((pieces.starts, new.starts), (pieces.ends, new.ends)):
            unknown = before[pieces.ids == tokenizer.unk]
            assert after[new.ids == trimmed.unk].tolist() == unknown.tolist()


def write_model(folder, pieces):
    """A unigram model of these pieces and scores, and nothing normalised."""
    model = protocol.ModelProto()
    for name, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        model.pieces.add(piece=name, score=0, type=kind)
    for name, score in pieces.items():
        model.pieces.add(piece=name, score=score)
    model.trainer_spec.model_type = protocol.TrainerSpec.UNIGRAM
    model.normalizer_spec.name = "identity"
    (folder / SENTENCEPIECE_FILE).write_bytes(model.SerializeToString())
    return PieceTokenizer(folder, "fairseq")


def test_unk_costs_what_it_did(tmp_path, monkeypatch):
    """Where a character is a part of pieces, but none itself, `<unk>` competes with them. Its score
    is that of the least likely piece - 10, so that must remain, used or not."""
    pieces = {"▁": -1.0, "x": -19.0, "ya": -20.0, "xy": -2.0, "b": -3.0, "y": -15.0, "z": -15.0,
              "zzz": -30.0}  # fmt: skip
    tokenizer = write_model(tmp_path, pieces)

    def cut(tokenizer, text):
        return tokenizer._backend.processor.encode(text, out_type=str)

    assert cut(tokenizer, "xyab") == ["▁", "x", "ya", "b"]
    used = count_pieces(tokenizer, ["xyab", "xyb"])
    folder = tmp_path / "trimmed"
    folder.mkdir()
    trimmed, rows = trim_pieces(tokenizer, used, folder)
    assert cut(trimmed, "xyab") == ["▁", "x", "ya", "b"]
    assert len(rows) == 4 + len(pieces) + 3
    # Without it, the text would be cut in another way.
    monkeypatch.setattr(trimming, "np", SimpleNamespace(argmin=np.argmax, argmax=np.argmax))
    trimmed, rows = trim_pieces(tokenizer, used, folder)
    assert len(rows) == 4 + len(pieces) + 2
    assert cut(trimmed, "xyab") == ["▁", "xy", "a", "b"]


def test_a_piece_with_a_character_that_is_none_remains(tmp_path):
    tokenizer = write_model(tmp_path, {"▁": -1.0, "a": -2.0, "ab": -3.0, "aa": -4.0, "aaa": -5.0})
    folder = tmp_path / "trimmed"
    folder.mkdir()
    trimmed, _ = trim_pieces(tokenizer, count_pieces(tokenizer, ["a"]), folder)
    names = [trimmed._backend.processor.id_to_piece(i) for i in range(7)]
    assert names == ["<unk>", "<s>", "</s>", "▁", "a", "ab", "aaa"]  # the last is the least likely


def test_pieces_that_are_no_ordinary_ones_remain(tmp_path):
    tokenizer = write_model(tmp_path, {"▁": -1.0, "a": -2.0, "bb": -3.0, "b": -4.0, "<": -5.0})
    model = trimming._read_model(tokenizer, "test")
    for name, kind in (("<0x41>", 6), ("ab", 4), ("<a>", 3), ("ba", 1), (">0x41", 1)):
        model.pieces.add(piece=name, score=-4.5, type=kind)
    kept = [model.pieces[i].piece for i in trimming._choose(model, {4}, tokenizer)]
    assert kept == [
        "<unk>", "<s>", "</s>", "▁", "a", "b", "<", "<0x41>", "ab", "<a>", ">0x41",
    ]  # fmt: skip


def test_counts(toy_folder):
    tokenizer = PieceTokenizer(toy_folder, "fairseq")
    counts = count_pieces(tokenizer, iter(["a a  a", "", "a 龘"]))
    word, a = tokenizer.encode("a").ids
    assert tokenizer.encode("a 龘").ids.tolist() == [word, a, word, tokenizer.unk]
    assert counts == {word: 5, a: 4, tokenizer.unk: 1}


# -- the same states -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def masked_folder(make_checkpoint):
    """Pretraining heads, and every file that `transformers` writes for a tokenizer."""
    folder, _ = make_checkpoint("LukeForMaskedLM")
    shutil.copy(folder / "entity_vocab.json", folder / "entities")
    tokenizer = transformers.MLukeTokenizer(
        vocab_file=str(folder / SENTENCEPIECE_FILE),
        entity_vocab_file=str(folder / "entities"),
    )
    tokenizer.save_pretrained(folder)
    assert "added_tokens_decoder" in json.loads((folder / "tokenizer_config.json").read_text())
    # As in the released checkpoints.
    size = tokenizer.convert_tokens_to_ids("<ent>")
    (folder / "added_tokens.json").write_text(json.dumps({"<ent>": size, "<ent2>": size + 1}))
    (folder / "tokenizer.json").write_text("{}")  # would be read by none, and out of date
    return folder


@pytest.fixture(scope="session")
def trimmed_folder(masked_folder, tmp_path_factory):
    """Trimmed to the covered texts; with the report and the old ids of its pieces."""
    output = tmp_path_factory.mktemp("trimmed") / "out"
    checkpoint = load_checkpoint(masked_folder)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    report = trim_checkpoint(checkpoint, count_pieces(checkpoint.pieces, COVERED), output)
    after = checkpoint.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return output, report


def make_windows(tokenizer, texts):
    """Texts with two entities each."""
    windows = []
    for i, text in enumerate(texts):
        ids = [tokenizer.bos, *tokenizer.encode(text).ids.tolist(), tokenizer.eos]
        windows.append((np.array(ids), np.array([2, i % 7]), [np.array([1, 2]), np.array([3])]))
    return windows


def encode(checkpoint, texts):
    with torch.no_grad():
        return checkpoint.encoder(make_pack(make_windows(checkpoint.pieces, texts)))


def test_states_are_the_same(masked_folder, trimmed_folder):
    checkpoint, trimmed = load_checkpoint(masked_folder), load_checkpoint(trimmed_folder[0])
    assert trimmed.config.piece_layout == "fairseq"
    for new, old in zip(encode(trimmed, COVERED), encode(checkpoint, COVERED), strict=True):
        assert torch.equal(new, old)
    # Others are read too, in smaller pieces.
    n_old, n_new = (len(encode(c, OTHER)[0]) for c in (checkpoint, trimmed))
    assert n_new > n_old


def test_scores_of_masked_pieces_are_the_same(masked_folder, trimmed_folder):
    checkpoint, trimmed = load_checkpoint(masked_folder), load_checkpoint(trimmed_folder[0])
    rows = [
        (checkpoint.pieces.encode(text).ids.tolist(), trimmed.pieces.encode(text).ids.tolist())
        for text in COVERED
    ]
    old, new = ([i for row in rows for i in row[k]] for k in (0, 1))
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = checkpoint.model.score_masked_words(states)
        ours = trimmed.model.score_masked_words(states)
    assert ours.shape == (5, trimmed.config.vocab_size)
    close(ours[:, new], theirs[:, old], 1e-6)
    special = [trimmed.pieces.special[name] for name in ("<s>", "<pad>", "<mask>", "<ent2>")]
    their_special = [checkpoint.pieces.special[n] for n in ("<s>", "<pad>", "<mask>", "<ent2>")]
    close(ours[:, special], theirs[:, their_special], 1e-6)


def test_transformers_reads_it(masked_folder, trimmed_folder):
    output, _ = trimmed_folder
    trimmed = load_checkpoint(output)
    tokenizer = transformers.MLukeTokenizer.from_pretrained(output)
    original = transformers.MLukeTokenizer.from_pretrained(masked_folder)
    assert len(tokenizer) == trimmed.config.vocab_size
    for name, i in trimmed.pieces.special.items():
        assert tokenizer.convert_tokens_to_ids(name) == i
    for text in TEXTS:
        assert tokenizer(text)["input_ids"][1:-1] == trimmed.pieces.encode(text).ids.tolist()
    for text in COVERED:
        assert tokenizer.tokenize(text) == original.tokenize(text)
    states = []
    for folder, pieces in (
        (masked_folder, load_checkpoint(masked_folder).pieces),
        (output, trimmed.pieces),
    ):
        model = transformers.LukeModel.from_pretrained(folder, add_pooling_layer=False).eval()
        windows = make_windows(pieces, COVERED)
        with torch.no_grad():
            out = model(**hf_inputs(windows))
        lengths = [len(window[0]) for window in windows]
        states.append((unpad(out.last_hidden_state, lengths), out.entity_last_hidden_state))
    close(states[1][0], states[0][0], 1e-6)
    close(states[1][1], states[0][1], 1e-6)
    close(encode(trimmed, COVERED)[0], states[0][0], 1e-5)


def test_report(masked_folder, trimmed_folder):
    output, report = trimmed_folder
    checkpoint = load_checkpoint(masked_folder)
    used = count_pieces(checkpoint.pieces, COVERED)
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(masked_folder / SENTENCEPIECE_FILE)
    )
    pieces = [processor.id_to_piece(i) for i in range(len(processor))]
    kept = {
        i + 1 for i, piece in enumerate(pieces) if i >= 3 and (len(piece) == 1 or i + 1 in used)
    }
    scores = [processor.get_score(i) for i in range(3, len(pieces))]
    kept |= {int(np.argmin(scores)) + 4, int(np.argmax(scores)) + 4}
    before, after = checkpoint.config.vocab_size, 4 + len(kept) + 3
    total = sum(tensor.numel() for tensor in checkpoint.model.state_dict().values())
    assert after < before
    assert report == TrimReport(before, after, len(used), total, total - 33 * (before - after))
    assert report.megabytes_saved == 33 * (before - after) * 4 / 1e6
    assert json.loads((output / "config.json").read_text())["vocab_size"] == after
    added = json.loads((output / "added_tokens.json").read_text())
    assert added == {"<ent>": after - 2, "<ent2>": after - 1}
    assert not (output / "tokenizer.json").exists()
    model = protocol.ModelProto.FromString((output / SENTENCEPIECE_FILE).read_bytes())
    assert model.trainer_spec.vocab_size == len(model.pieces) == after - 4


def test_own_numbers(odd_folder, make_checkpoint, tmp_path):
    """Layout "sentencepiece", where markers and bytes are pieces of the model."""
    size = PieceTokenizer(odd_folder, "sentencepiece").sizes[0]
    folder, _ = make_checkpoint("LukeForEntityClassification", vocab_size=size)
    shutil.copy(odd_folder / SENTENCEPIECE_FILE, folder)
    config = json.loads((folder / "config.json").read_text())
    config["spacy_mluke"] = {"piece_layout": "sentencepiece"}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(folder)
    used = count_pieces(checkpoint.pieces, COVERED)
    report = trim_checkpoint(checkpoint, used, tmp_path / "out", storage="float16")
    trimmed = load_checkpoint(tmp_path / "out")
    assert trimmed.config.vocab_size == report.pieces_after < size
    assert trimmed.config.heads == ("typing",)
    assert len(trimmed.pieces.encode("Wien 龘")) == len(checkpoint.pieces.encode("Wien 龘"))
    for new, old in zip(encode(trimmed, COVERED), encode(checkpoint, COVERED), strict=True):
        close(new, old, 0.05)  # float16 in the file
    assert load_file(tmp_path / "out" / WEIGHTS)[WORDS].dtype == torch.float16


def test_vocabulary_without_markers(make_checkpoint, vocab_size, tmp_path):
    """XLM-R's ids end with <mask>."""
    folder, _ = make_checkpoint("LukeModel", vocab_size=vocab_size - 2)
    checkpoint = load_checkpoint(folder)
    report = trim_checkpoint(checkpoint, count_pieces(checkpoint.pieces, COVERED), tmp_path / "out")
    trimmed = load_checkpoint(tmp_path / "out")
    assert trimmed.pieces.special["<mask>"] == report.pieces_after - 1
    old, new = (c.encoder.embeddings.word_embeddings.weight for c in (checkpoint, trimmed))
    assert torch.equal(new[-1], old[-1])
    assert torch.equal(new[:4], old[:4])


def test_a_mapped_table_is_linked(masked_folder, tmp_path):
    save_checkpoint(load_checkpoint(masked_folder, map_entities=True), tmp_path / "mapped")
    checkpoint = load_checkpoint(tmp_path / "mapped", map_entities=True)
    used = count_pieces(checkpoint.pieces, COVERED)
    (tmp_path / "out").mkdir()  # an empty folder may be there
    report = trim_checkpoint(checkpoint, used, tmp_path / "out")
    files = [tmp_path / name / TABLE_SHARD for name in ("mapped", "out")]
    assert files[0].samefile(files[1])
    assert report.parameters_before == sum(
        tensor.numel() for tensor in load_checkpoint(masked_folder).model.state_dict().values()
    )
    trimmed = load_checkpoint(tmp_path / "out", map_entities=True)
    assert TABLE not in trimmed.model.state_dict()
    for new, old in zip(encode(trimmed, COVERED), encode(checkpoint, COVERED), strict=True):
        assert torch.equal(new, old)
    assert dict(trimmed.entities.items()) == ENTITIES
    model = transformers.LukeModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    assert model.config.vocab_size == report.pieces_after
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# -- quotas ----------------------------------------------------------------------------------------


def test_chosen_pieces(masked_folder, tmp_path):
    checkpoint = load_checkpoint(masked_folder)
    counts = {"en": count_pieces(checkpoint.pieces, COVERED), "fi": Counter({20: 3, 30: 1})}
    for size in (235, 245):
        used = choose_pieces(checkpoint, counts, size)
        assert len(used) == size
        report = trim_checkpoint(
            checkpoint, used, tmp_path / str(size), held_out={"en": COVERED, "fi": [""]}
        )
        assert report.pieces_after == size
        ids = [i for text in COVERED for i in checkpoint.pieces.encode(text).ids.tolist()]
        trimmed = load_checkpoint(tmp_path / str(size)).pieces
        words = sum(len(text.split()) for text in COVERED)
        new = sum(len(trimmed.encode(text)) for text in COVERED)
        kept = sum(i in used for i in ids) / len(ids)
        assert report.coverage == {
            "en": Coverage(kept, "token", len(ids) / words, new / words)
        }  # nothing to measure in the other
        assert size == 245 or kept < 1
    assert choose_pieces(checkpoint, {"en": Counter({20: 1})}, checkpoint.config.vocab_size)


def test_sizes_that_cannot_be(checkpoint, vocab_size):
    for size in (3, vocab_size + 1):
        with pytest.raises(ValueError, match=rf"size is {size}, but .* to {vocab_size}, which"):
            choose_pieces(checkpoint, {"en": Counter({20: 1})}, size)
    with pytest.raises(ValueError, match="there is no language: count the pieces of some text"):
        choose_pieces(checkpoint, {}, 240)
    with pytest.raises(ValueError, match="language 'fi' uses no piece: give texts of it"):
        choose_pieces(checkpoint, {"en": Counter({20: 1}), "fi": Counter()}, 240)


# -- what cannot be done ---------------------------------------------------------------------------


@pytest.fixture
def checkpoint(masked_folder):
    return load_checkpoint(masked_folder)


def test_what_is_used_must_be_pieces(checkpoint, vocab_size, tmp_path):
    with pytest.raises(ValueError, match="no piece is used: count the pieces of some text first"):
        trim_checkpoint(checkpoint, [], tmp_path / "out")
    with pytest.raises(ValueError, match=rf"no piece {vocab_size} in .* end at {vocab_size - 1}"):
        trim_checkpoint(checkpoint, [5, vocab_size], tmp_path / "out")
    with pytest.raises(ValueError, match="no piece -1 in"):
        trim_checkpoint(checkpoint, [-1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(checkpoint, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="exists: choose another place"):
            trim_checkpoint(checkpoint, [5], output)


def test_other_kinds_of_pieces(make_checkpoint, tmp_path):
    size = write_english_tokenizer(tmp_path)
    folder, _ = make_checkpoint("LukeModel", vocab_size=size)
    for name in (SENTENCEPIECE_FILE, "tokenizer_config.json"):
        (folder / name).unlink()
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        shutil.copy(tmp_path / name, folder)
    with pytest.raises(ValueError, match=r"layout 'tokenizer\.json', and only SentencePiece"):
        check_trimmable(load_checkpoint(folder))


def test_bpe(checkpoint, tmp_path):
    train_sentencepiece(tmp_path, model_type="bpe")
    checkpoint.pieces = PieceTokenizer(tmp_path, "fairseq")
    with pytest.raises(ValueError, match=r"of type BPE, and only UNIGRAM can be trimmed"):
        trim_checkpoint(checkpoint, [5], tmp_path / "out")


def without_protobuf(monkeypatch):
    monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2")
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)


def test_without_protobuf(checkpoint, tmp_path, monkeypatch):
    without_protobuf(monkeypatch)
    with pytest.raises(ImportError, match=r"protobuf is needed .* 'spacy-mluke\[pretraining\]'"):
        trim_checkpoint(checkpoint, [5], tmp_path / "out")
    with pytest.raises(ImportError, match="protobuf is needed"):
        check_trimmable(checkpoint)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def run(make_run):
    return make_run(trim_cli)


def table_of(output):
    return {row[0]: row[1:] for row in map(str.split, output.splitlines()) if row}


def test_command(run, masked_folder, trimmed_folder, tmp_path):
    one, two = tmp_path / "en.txt", tmp_path / "de.jsonl"
    one.write_text("\n".join(COVERED[:3]))
    two.write_text("\n".join(json.dumps({"text": text}) for text in COVERED[3:]))
    output = tmp_path / "out"
    done = run(masked_folder, output, f"en={one}", f"de={two}")
    assert done.exit_code == 0, done.output
    expected, report = trimmed_folder
    assert (output / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()
    assert f"{report.pieces_after:,} of {report.pieces_before:,} pieces" in done.stderr
    pieces = load_checkpoint(masked_folder).pieces
    used = str(len(count_pieces(pieces, COVERED[:3])))
    assert table_of(done.stdout)["en"] == [used, "-", "-", "-", "-"]
    assert "en has no text to measure: give 10 or more" in done.stderr
    again = run(masked_folder, output, f"en={one}")
    assert again.exit_code == 1
    assert f"OUTPUT {output} exists: choose another place" in again.stderr


def test_command_leaves_out_rare_pieces(run, masked_folder, tmp_path):
    path = tmp_path / "en.txt"
    path.write_text("\n".join(COVERED))
    done = run(masked_folder, tmp_path / "out", f"en={path}", "--min-count", 3)
    assert done.exit_code == 0, done.output
    pieces = load_checkpoint(masked_folder).pieces
    used = [i for i, count in count_pieces(pieces, COVERED).items() if count >= 3]
    report = trim_checkpoint(load_checkpoint(masked_folder), used, tmp_path / "same")
    assert load_checkpoint(tmp_path / "out").config.vocab_size == report.pieces_after


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-count", "0"], "--min-count is 0: use 1 or more"),
        (["--min-count", "1", "--size", "9"], "--size and --min-count are two ways"),
        (["--size", "9"], "size is 9, but must be from "),
        (["--storage", "int2"], "storage is 'int2': use one of float32, float16, bfloat16, int8, "),
    ],
)
def test_command_with_impossible_options(run, masked_folder, tmp_path, options, message):
    path = tmp_path / "en.txt"
    path.write_text("a")
    done = run(masked_folder, tmp_path / "out", f"en={path}", *options)
    assert done.exit_code == 1
    assert message in done.stderr


def test_command_with_a_size(run, masked_folder, tmp_path):
    """Texts 10, 20, … are not counted, but measured."""
    files = []
    for lang, texts in (("en", [*COVERED, *COVERED[:3]]), ("fi", ["tere", *COVERED])):
        path = tmp_path / f"{lang}.txt"
        path.write_text("\n".join((texts * 2)[:9] + OTHER[-1:]))
        files.append(f"{lang}={path}")
    checkpoint = load_checkpoint(masked_folder)
    counts = {
        "en": count_pieces(checkpoint.pieces, [*COVERED, *COVERED[:3]]),
        "fi": count_pieces(checkpoint.pieces, ["tere", *COVERED, "tere", COVERED[0]]),
    }
    used = choose_pieces(checkpoint, counts, 225)
    held_out = dict.fromkeys(counts, OTHER[-1:])
    expected = trim_checkpoint(checkpoint, used, tmp_path / "same", held_out=held_out)
    assert expected.pieces_after == 225
    found = expected.coverage["fi"]
    assert found.kept < 0.9
    done = run(masked_folder, tmp_path / "out", *files, "--size", 225)
    assert done.exit_code == 0, done.output
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("out", "same")]
    assert weights[0] == weights[1]
    assert table_of(done.stdout)["fi"] == [
        str(len(counts["fi"])), f"{100 * found.kept:.1f}", f"{found.before:.2f}",
        f"{found.after:.2f}", "token",
    ]  # fmt: skip
    line = f"fi keeps {found.kept:.1%} of its running pieces, less than 90%: raise --size"
    assert line in done.stderr.replace("\n", " ")


def test_command_says_first_that_protobuf_is_missing(run, masked_folder, tmp_path, monkeypatch):
    path = tmp_path / "en.txt"
    path.write_bytes(b"\xff")  # not read
    without_protobuf(monkeypatch)
    done = run(masked_folder, tmp_path / "out", f"en={path}")
    assert done.exit_code == 1
    assert "protobuf is needed" in done.stderr


def test_command_warns_where_texts_are_read_in_parts(run, make_checkpoint, tmp_path):
    folder, _ = make_checkpoint("LukeForEntityClassification")
    path = tmp_path / "en.txt"
    path.write_text("a")
    done = run(folder, tmp_path / "out", f"en={path}")
    assert done.exit_code == 0, done.output
    assert "reads markers on their own" in done.stderr.replace("\n", " ")
