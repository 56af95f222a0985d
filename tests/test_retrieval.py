"""`EntityIndex` finds what a scan of the whole table in float64 finds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spacy_mluke import retrieval, table_rows
from spacy_mluke.checkpoint import load_checkpoint
from spacy_mluke.encoder import EntityTable
from spacy_mluke.retrieval import EntityIndex
from spacy_mluke.table_rows import FloatRows, Int8Rows, int8_is_right, quantize

from .test_encoder import DEVICE, make_pack, random_windows

WIDTH = 16
KINDS = ["float", "int8"]


@pytest.fixture(autouse=True)
def _int8_wherever_it_is_right(monkeypatch):
    """Also where it is slow."""
    monkeypatch.setattr(retrieval, "int8_pays", int8_is_right)


def need_int8(kind: str = "int8") -> None:
    if kind == "int8" and not int8_is_right(torch.device(DEVICE), WIDTH):
        pytest.skip("int8 matrices are not multiplied right here")


def a_table(rows: Tensor, *, mapped: bool = True) -> EntityTable:
    table = EntityTable(*rows.shape)
    if mapped:
        table.map(rows)
    else:
        table.weight = nn.Parameter(rows)
    return table


def an_index(rows: Tensor, bias: Tensor, kind: str, block: int = 1 << 19) -> EntityIndex:
    above = 0 if kind == "int8" else len(rows)
    index = EntityIndex(a_table(rows), bias, quantize_above=above, block=block)
    assert isinstance(index.prepare(DEVICE), Int8Rows if kind == "int8" else FloatRows)
    return index


def full_scan(
    x: Tensor, rows: Tensor, bias: Tensor, k: int, exclude: tuple[int, ...] = ()
) -> tuple[list[list[int]], list[list[float]]]:
    ids, scores = [], []
    for query in x.cpu().double():
        sums = ((rows.double() * query).sum(1) + bias.detach().double()).float()
        sums[list(exclude)] = -torch.inf
        order = np.lexsort([np.arange(len(rows)), -sums.numpy()])[:k]
        order = order[np.isfinite(sums.numpy()[order])]
        ids.append([*order.tolist(), *[-1] * (k - len(order))])
        scores.append([*sums[order].tolist(), *[-np.inf] * (k - len(order))])
    return ids, scores


def assert_same(
    found: tuple[Tensor, Tensor], expected: tuple[list[list[int]], list[list[float]]]
) -> None:
    assert found[0].dtype == torch.int64
    assert found[1].dtype == torch.float32
    assert found[0].tolist() == expected[0]
    assert found[1].tolist() == expected[1]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3, 40, 130])
def test_equals_a_full_scan(kind, n):
    need_int8(kind)
    rows, bias = random(5_003, WIDTH) * random(5_003, 1, seed=1).exp(), random(5_003, seed=2)
    x = random(n, WIDTH, seed=3)
    index = an_index(rows, bias, kind, block=1_000 * n)
    found = index.search(x.to(DEVICE), 10)
    assert found[0].device == found[1].device == x.to(DEVICE).device
    assert_same(found, full_scan(x, rows, bias, 10))


LIKE_NOTHING = [
    "many ties",
    "nearly one row",
    "one large number",
    "zeros",
    "huge bias",
    "tiny",
    "float16",
    "bfloat16",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", LIKE_NOTHING)
def test_tables_that_int8_is_bad_at(kind, what):
    need_int8(kind)
    rows, bias, x = random(700, WIDTH), random(700, seed=1), random(9, WIDTH, seed=2)
    if what == "many ties":
        rows, bias, x = rows.round(), bias * 0, x.round()
    elif what == "nearly one row":
        rows, bias = random(1, WIDTH) + 1e-5 * rows, bias * 1e-6
    elif what == "one large number":
        rows[:, 3] = 1e4
    elif what == "zeros":
        rows[::2], x[::3] = 0, 0
    elif what == "huge bias":
        bias *= 1e6
    elif what == "tiny":
        rows, bias = rows * 1e-25, bias * 0
    else:
        rows = rows.to(getattr(torch, what))
    found = an_index(rows, bias, kind, block=64).search(x.to(DEVICE), 8)
    assert_same(found, full_scan(x, rows, bias, 8))


def test_the_lower_id_comes_first_where_scores_are_equal():
    need_int8()
    for kind in KINDS:
        index = an_index(torch.ones(300, WIDTH), torch.zeros(300), kind, block=64)
        ids, scores = index.search(torch.ones(2, WIDTH, device=DEVICE), 5, exclude=[1, 3])
        assert ids.tolist() == [[0, 2, 4, 5, 6]] * 2
        assert scores.tolist() == [[float(WIDTH)] * 5] * 2


# Numbers that are equal, or nearly, far more often than random ones.
numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1.0 + 1e-6, 3e-5, -40.0]) | st.floats(
    -100, 100, width=32
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(1, 90), st.integers(1, 8), st.integers(0, 5), st.integers(1, 100))
def test_any_numbers(data, n_rows, width, n, k):
    def draw(*shape: int) -> Tensor:
        size = int(np.prod(shape))
        base = data.draw(st.lists(numbers, min_size=1, max_size=24))
        order = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, len(base), size)
        return torch.tensor(base, dtype=torch.float32)[torch.from_numpy(order)].view(shape)

    rows, bias, x = draw(n_rows, width), draw(n_rows), draw(n, width)
    exclude = data.draw(st.lists(st.integers(0, n_rows - 1), max_size=9))
    expected = full_scan(x, rows, bias, k, tuple(exclude))
    for kind in KINDS if int8_is_right(torch.device("cpu"), width) else KINDS[:1]:
        table = a_table(rows)
        index = EntityIndex(
            table, bias, quantize_above=0 if kind == "int8" else n_rows, block=data.draw(blocks)
        )
        assert_same(index.search(x, k, exclude), expected)


blocks = st.sampled_from([1, 64, 1 << 12])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(-6, 6), st.floats(-6, 6), st.sampled_from([1, 7, 64]))
@example(0, 0.0, 0.0, 256)
def test_rough_scores_are_as_good_as_they_say(seed, rows_size, x_size, width):
    if not int8_is_right(torch.device("cpu"), width):
        return
    rows = random(50, width, seed=seed) * 10**rows_size
    rows[0], rows[1, 0] = 0, rows[1].abs().max() * 1e4
    x = random(6, width, seed=seed + 1) * 10**x_size
    x[0] = 0
    x[1] = rows[2] * 10 ** (x_size - rows_size)
    exact = x.double() @ rows.double().t()
    for scan in (FloatRows(a_table(rows)), quantize(rows)):
        queries = scan.read(x)
        rough, widths = scan.score(queries, slice(0, 50))
        assert ((rough - exact).abs() <= queries.error @ widths).all()


def test_rough_scores_are_good_enough():
    """Of the best cosines of random vectors, a bound of 0.02 leaves few hundred in a million."""
    need_int8()
    rows, x = random(2_000, 256), random(6, 256, seed=1)
    lengths = x.norm(dim=1)[:, None] * rows.norm(dim=1)
    for scan in (FloatRows(a_table(rows)), quantize(rows)):
        queries = scan.read(x)
        widths = scan.score(queries, slice(0, len(rows)))[1]
        assert (queries.error @ widths < 0.02 * lengths).all()


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_rows(kind):
    need_int8(kind)
    rows, bias, x = random(500, WIDTH), random(500, seed=1), random(4, WIDTH, seed=2)
    index = an_index(rows, bias, kind, block=256)
    best = index.search(x.to(DEVICE), 30)[0]
    exclude = sorted({int(i) for i in best[:, :20].flatten()})
    for ids in (exclude, [*exclude, *exclude], np.array(exclude)):
        found = index.search(x.to(DEVICE), 10, ids)
        assert_same(found, full_scan(x, rows, bias, 10, tuple(exclude)))
    assert index.search(x.to(DEVICE), 2, range(500))[0].tolist() == [[-1, -1]] * 4
    assert index.search(x.to(DEVICE), 2, range(1, 500))[0].tolist() == [[0, -1]] * 4
    bias[7] = -torch.inf
    bias[8] = torch.inf
    best, scores = index.search(x.to(DEVICE), 500)
    assert best[:, 0].tolist() == [8] * 4
    assert best[:, -1].tolist() == [-1] * 4
    assert (best != 7).all()
    assert scores[0, 0] == torch.inf


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_there_are_and_nothing_at_all(kind):
    need_int8(kind)
    rows, bias, x = random(40, WIDTH), random(40, seed=1), random(3, WIDTH, seed=2)
    index = an_index(rows, bias, kind, block=32)
    assert_same(index.search(x.to(DEVICE), 60), full_scan(x, rows, bias, 60))
    ids, scores = index.search(x[:0].to(DEVICE), 4)
    assert ids.shape == scores.shape == (0, 4)
    empty = EntityIndex(a_table(rows[:0], mapped=False), bias[:0])
    assert empty.search(x, 2)[0].tolist() == [[-1, -1]] * 3


def test_mixed_precision_changes_nothing():
    need_int8()
    rows, bias, x = random(600, WIDTH), random(600, seed=1), random(4, WIDTH, seed=2)
    for kind in KINDS:
        index = an_index(rows, bias, kind)
        expected = index.search(x.to(DEVICE), 10)
        with torch.autocast(DEVICE, torch.bfloat16):
            found = index.search(x.to(DEVICE), 10)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        half = x.to(DEVICE, torch.bfloat16)  # what layer norm gives, if it is asked to
        assert torch.equal(index.search(half, 10)[0], index.search(half.float(), 10)[0])


def test_a_table_and_a_bias_in_training():
    rows, x = random(200, WIDTH), random(3, WIDTH, seed=2)
    table, bias = a_table(rows.clone(), mapped=False), nn.Parameter(random(200, seed=1))
    index = EntityIndex(table, bias, quantize_above=0)  # never copied
    assert isinstance(index.prepare(), FloatRows)
    assert_same(index.search(x, 5), full_scan(x, rows, bias, 5))
    with torch.no_grad():
        table.weight.mul_(random(200, 1, seed=5))
        bias.neg_()
    found = index.search(x, 5)
    assert_same(found, full_scan(x, table.weight.detach(), bias, 5))
    assert not found[1].requires_grad


@pytest.mark.parametrize("map_entities", [False, True])
def test_equals_the_masked_entity_head(make_checkpoint, vocab_size, map_entities):
    need_int8()
    folder, _ = make_checkpoint("LukeForMaskedLM")
    model = load_checkpoint(folder, map_entities=map_entities).model.to(DEVICE)
    head, table = model.entity_predictions, model.luke.entity_table
    assert head is not None
    index = EntityIndex(table, head.bias, quantize_above=0)
    with torch.inference_mode():
        states = model(make_pack(random_windows(vocab_size)))[1]
        ids, scores = index.search(head.transform(states), 3, exclude=[0, 1, 2, 3])
        logits = model.score_masked_entities(states)
        logits[:, :4] = -torch.inf
        expected = logits.topk(3)
    assert torch.equal(ids, expected.indices)
    torch.testing.assert_close(scores, expected.values, atol=1e-5, rtol=1e-5)
    assert isinstance(index.prepare(DEVICE), Int8Rows if map_entities else FloatRows)


# ---------------------------------------------------------------------------- what is refused


def test_what_does_not_fit():
    rows, bias = random(20, WIDTH), random(20, seed=1)
    table = a_table(rows)
    with pytest.raises(ValueError, match=r"20 rows needs a bias of shape \(20,\), found \(19,\)"):
        EntityIndex(table, bias[1:])
    index = EntityIndex(table, bias)
    with pytest.raises(ValueError, match=r"shape \(N, 16\), found \(2, 15\)"):
        index.search(torch.zeros(2, 15), 1)
    with pytest.raises(ValueError, match="k must be 1 or more, found 0"):
        index.search(torch.zeros(2, WIDTH), 0)
    with pytest.raises(ValueError, match="a query with NaN"):
        index.search(torch.full((1, WIDTH), torch.inf), 1)
    table.keep([1, 2, 3])
    with pytest.raises(ValueError, match="was exchanged after the index was made"):
        index.search(torch.zeros(2, WIDTH), 1)
    bias[5] = torch.nan
    with pytest.raises(ValueError, match="bias of the masked entity head holds NaN"):
        index.search(torch.zeros(2, WIDTH), 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_row_that_is_not_finite(kind, mapped):
    rows = random(20_000, WIDTH)
    rows[17_001, 3] = torch.nan
    above = 0 if kind == "int8" else len(rows)
    index = EntityIndex(a_table(rows, mapped=mapped), torch.zeros(20_000), quantize_above=above)
    with pytest.raises(ValueError, match="row 17001 holds NaN"):
        index.search(torch.zeros(2, WIDTH), 1)


def test_int8_only_where_it_is_right(monkeypatch):
    rows, bias, x = random(600, WIDTH), random(600, seed=1), random(4, WIDTH, seed=2)
    right = torch._int_mm

    def saturated(a: Tensor, b: Tensor) -> Tensor:
        return right(a, b).clamp(-(2**15), 2**15 - 1)

    def missing(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("not implemented for this device")

    for product in (saturated, missing):
        int8_is_right.cache_clear()
        monkeypatch.setattr(torch, "_int_mm", product)
        index = EntityIndex(a_table(rows), bias, quantize_above=0)
        assert isinstance(index.prepare(), FloatRows)
        assert_same(index.search(x, 5), full_scan(x, rows, bias, 5))
    int8_is_right.cache_clear()


def test_whether_int8_pays_is_asked_once(monkeypatch):
    monkeypatch.undo()
    table_rows.int8_pays.cache_clear()
    answer = table_rows.int8_pays(torch.device("cpu"), 256)
    assert answer in (True, False)
    assert table_rows.int8_pays(torch.device("cpu"), 256) is answer
    assert table_rows.int8_pays.cache_info().hits == 1


# ---------------------------------------------------------------------------- the cache


@pytest.fixture
def mapped_rows(tmp_path: Path) -> Tensor:
    """A table in a file, of which a quarter of the rows are special cases."""
    need_int8()
    rows = random(3_000, WIDTH)
    rows[::8] = 0
    rows[1::8] *= 1e-4
    save_file({"rows": rows}, tmp_path / "table.safetensors")
    with safe_open(tmp_path / "table.safetensors", framework="pt") as file:
        return file.get_tensor("rows")


def check(rows: Tensor, cache: Path, digest: str | None = "abc") -> None:
    bias, x = random(len(rows), seed=1), random(6, WIDTH, seed=2)
    index = EntityIndex(a_table(rows), bias, digest, cache=cache, quantize_above=0, block=4_096)
    assert_same(index.search(x, 7), full_scan(x, rows, bias, 7))
    assert isinstance(index.prepare(), Int8Rows)


def test_the_copy_is_made_once(mapped_rows, tmp_path, monkeypatch):
    check(mapped_rows, tmp_path / "cache")
    path = tmp_path / "cache" / "entity_index-abc.safetensors"
    assert os.listdir(tmp_path / "cache") == [path.name]
    copy, tensors = quantize(mapped_rows), load_file(path)
    assert torch.equal(tensors["rows"], copy.rows)
    assert torch.equal(tensors["scales"], copy.scales)
    assert torch.equal(tensors["widths"], copy.widths)

    def refuse(*args: object) -> None:
        raise AssertionError("it is there")

    monkeypatch.setattr(retrieval, "write_copy", refuse)
    check(mapped_rows, tmp_path / "cache")
    monkeypatch.setenv("SPACY_MLUKE_CACHE", str(tmp_path / "cache"))
    index = EntityIndex(a_table(mapped_rows), random(3_000), "abc", quantize_above=0)
    assert torch.equal(index.prepare().rows, copy.rows)
    with pytest.raises(AssertionError):
        check(mapped_rows, tmp_path / "cache", "another")


def test_no_file_without_a_digest(mapped_rows, tmp_path):
    check(mapped_rows, tmp_path / "cache", None)
    assert not (tmp_path / "cache").exists()


def cut(path: Path, rows: Tensor) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def nothing_in_it(path: Path, rows: Tensor) -> None:
    path.write_bytes(b"")


def zeros_at_the_end(path: Path, rows: Tensor) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def all_zeros(path: Path, rows: Tensor) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def other_version(path: Path, rows: Tensor) -> None:
    save_file(load_file(path), path, metadata={"version": "0"})


def other_tensors(path: Path, rows: Tensor) -> None:
    save_file({"rows": load_file(path)["rows"]}, path, metadata={"version": "1"})


def other_width(path: Path, rows: Tensor) -> None:
    table_rows.write_copy(path, rows[:, 1:])


def other_length(path: Path, rows: Tensor) -> None:
    table_rows.write_copy(path, rows[1:])


def other_table(path: Path, rows: Tensor) -> None:
    table_rows.write_copy(path, rows.flip(0))


def other_type(path: Path, rows: Tensor) -> None:
    tensors = load_file(path)
    tensors["rows"] = tensors["rows"].float()
    save_file(tensors, path, metadata={"version": "1"})


def no_widths(path: Path, rows: Tensor) -> None:
    tensors = load_file(path)
    tensors["widths"] *= 0
    save_file(tensors, path, metadata={"version": "1"})


DAMAGES = [cut, nothing_in_it, zeros_at_the_end, all_zeros, other_version, other_tensors,
           other_width, other_length, other_table, other_type, no_widths]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_made_anew(mapped_rows, tmp_path, damage: Callable[[Path, Tensor], None]):
    path = tmp_path / "cache" / "entity_index-abc.safetensors"
    table_rows.write_copy(path, mapped_rows)
    whole = path.read_bytes()
    damage(path, mapped_rows)
    assert path.read_bytes() != whole
    check(mapped_rows, tmp_path / "cache")
    assert path.read_bytes() == whole
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_an_interrupted_build_leaves_nothing(mapped_rows, tmp_path, monkeypatch, what):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((os, "fsync") if what == "fsync" else (Path, "replace")), interrupt)
    with pytest.raises(KeyboardInterrupt):
        check(mapped_rows, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written(mapped_rows, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be kept in .*held in memory.*SPACY_MLUKE_CACHE"):
        check(mapped_rows, tmp_path / "file")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.warns(UserWarning, match="No space left on device"):
        check(mapped_rows, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_making_the_copy_takes_little_memory(tmp_path, monkeypatch):
    """The table has 164 MB, the copy 41 MB."""
    path = tmp_path / "table.safetensors"
    save_file({"rows": torch.ones(160_000, 256)}, path)
    with safe_open(path, framework="pt") as file:
        rows = file.get_tensor("rows")
    own: list[int] = []
    quantize_rows = table_rows._quantize_rows

    def measured(*args):
        result = quantize_rows(*args)
        lines = Path("/proc/self/status").read_text().splitlines()
        own.extend(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))
        return result

    monkeypatch.setattr(table_rows, "_quantize_rows", measured)
    measured(rows[:1], 0)
    table_rows.write_copy(tmp_path / "copy.safetensors", rows)
    assert len(own) == 21
    assert max(own) - own[0] < 120
