"""A model whose entity table is shared by two processes is one model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from spacy_mluke.config import MLukeConfig
from spacy_mluke.heads import MLuke, init_model
from spacy_mluke.packs import Pack
from spacy_mluke.pretraining.sharding import (
    Shard,
    ShardedTable,
    gather_entities,
    load_shard,
    local_entities,
    save_shard,
    shard_entities,
    sharded_parameters,
)
from spacy_mluke.pretraining.softmax import entity_cross_entropy, sampled_cross_entropy
from spacy_mluke.weights import TABLE

from .processes import PROCESSES, in_processes

ENTITIES, PIECES, MASK, LAST_MASK = 41, 50, 2, 3
CONFIG = MLukeConfig(
    vocab_size=PIECES,
    entity_vocab_size=ENTITIES,
    hidden_size=16,
    entity_emb_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    max_position_embeddings=40,
    type_vocab_size=1,
    use_entity_aware_attention=False,
    initializer_range=0.2,
    architectures=("LukeForMaskedLM",),
)
# Windows of each process, and how many of their entities are masked; in the second update one
# process has no masked entity.
UPDATES = (((3, 2), (2, 1)), ((1, 2), (0, 2)))
LEARNING_RATE = 1e-3
IDS = ([[2, 2, 40], [0, 2, 17]], [20])  # looked up by each process; 20 and above are the second's


class Objective(torch.nn.Module):
    """As in pretraining: the summed loss of masked words and masked entities, in one module."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pack, word_targets, entity_targets):
        words, entities = self.model(pack)
        masked = pack.pieces == LAST_MASK
        loss = F.cross_entropy(
            self.model.score_masked_words(words[masked]), word_targets, reduction="sum"
        )
        x = self.model.entity_predictions.transform(entities[pack.entities == MASK])
        local = local_entities(self.model)
        losses = entity_cross_entropy(
            x, local.rows, local.bias, entity_targets,
            chunk=9, first_row=local.first_row, group=local.group,
        )  # fmt: skip
        return loss + losses.sum()


def make_model(seed=0):
    model = MLuke(CONFIG)
    init_model(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.2, 0.2, len(parameter)))
    return model


def make_windows(update, rank):
    """Windows with one masked word each, and masked entities in as many of them as are asked."""
    (counts, masked), rng = UPDATES[update], np.random.default_rng(10 * update + rank)
    windows = []
    for i in range(counts[rank]):
        length = int(rng.integers(4, 9))
        pieces = np.concatenate([[0], rng.integers(4, PIECES, length), [2]])
        pieces[2] = LAST_MASK
        entities = rng.integers(4, ENTITIES, 3)
        if i < masked[rank]:
            entities[1] = MASK
        positions = [np.array([1]), np.array([2, 3]), np.array([4])]
        targets = rng.integers(ENTITIES, size=int(i < masked[rank]))
        windows.append((pieces, entities, positions, rng.integers(PIECES, size=1), targets))
    return windows


def make_batch(windows):
    pieces, entities, positions, word_targets, entity_targets = zip(*windows, strict=True)
    pack = Pack.from_windows(pieces, entities, positions)
    return (
        pack,
        torch.from_numpy(np.concatenate(word_targets)),
        torch.from_numpy(np.concatenate(entity_targets)),
    )


def make_optimizer(module):
    """The sharded parameters have an optimizer of their own, as they have a state of their own."""
    shared = {id(p) for p in sharded_parameters(module).values()}
    groups = [
        [p for p in module.parameters() if id(p) not in shared],
        [p for p in module.parameters() if id(p) in shared],
    ]
    return [torch.optim.AdamW(g, lr=LEARNING_RATE, eps=1e-6) for g in groups if g]


def train_alone():
    """RETURNS: the whole model after each update, its gradients, and the losses."""
    model = make_model().double()
    optimizers = make_optimizer(model)
    steps = []
    for update in range(len(UPDATES)):
        windows = [w for rank in range(PROCESSES) for w in make_windows(update, rank)]
        loss = Objective(model)(*make_batch(windows))
        loss.backward()
        steps.append(finish(model, optimizers, loss))
    return steps


def finish(model, optimizers, loss):
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return {
        "loss": loss.detach(),
        "gradients": gradients,
        "weights": {name: tensor.clone() for name, tensor in gather_entities(model).items()},
    }


def train(rank, dtype, group):
    model = make_model().to(dtype)
    shard_entities(model, group)
    objective = Objective(model)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        objective, list(sharded_parameters(objective))
    )
    wrapped = DistributedDataParallel(objective)
    optimizers = make_optimizer(objective)
    steps = []
    for update in range(len(UPDATES)):
        loss = wrapped(*make_batch(make_windows(update, rank)))
        # DistributedDataParallel makes means of gradients, the rest sums.
        (loss * PROCESSES).backward()
        for parameter in sharded_parameters(objective).values():
            parameter.grad.div_(PROCESSES)
        steps.append(finish(model, optimizers, loss))
    return model, optimizers, steps


def work(rank, folder):
    group = dist.new_group()
    results = {}

    # Rows that are looked up, and their gradients.
    model = make_model()
    shard_entities(model, group)
    table, bias = model.luke.entity_table, model.entity_predictions.bias
    ids = torch.tensor(IDS[rank])
    rows, biases = table(ids), bias[ids]
    (rows.sum() * (rank + 1) + biases.square().sum()).backward()
    results["rows"], results["biases"] = rows.detach(), biases.detach()
    results["row gradients"] = table.weight.grad.clone()
    results["bias gradients"] = bias.weight.grad.clone()
    for looked_up in (ids[:0] if rank else ids), ids[:0]:  # one process none, all none
        rows = table(looked_up)
        assert rows.shape == (*looked_up.shape, 8)
        rows.sum().backward()

    # With samples, which every process draws for itself.
    x = torch.linspace(-1, 1, 24).view(3, 8)[rank:]
    targets = torch.tensor([1, 30, 40])[rank:]
    generator = torch.Generator().manual_seed(rank)
    losses = sampled_cross_entropy(x, table, bias, targets, samples=50, generator=generator)
    losses.sum().backward()
    results["sampled"] = losses.detach()

    # Updates.
    _, _, results["float64"] = train(rank, torch.float64, group)
    model, optimizers, results["float32"] = train(rank, torch.float32, group)

    # A run that goes on.
    path = save_shard(model, folder / "run")
    assert path.name == f"entities-0000{rank + 1}-of-00002.safetensors"
    saved = [optimizer.state_dict() for optimizer in optimizers]
    resumed = make_model(seed=1)
    shard_entities(resumed, group)
    optimizers = make_optimizer(resumed)
    kept = resumed.luke.entity_table.weight
    load_shard(resumed, folder / "run")
    for optimizer, state in zip(optimizers, saved, strict=True):
        optimizer.load_state_dict(state)
    assert resumed.luke.entity_table.weight is kept
    for name, parameter in sharded_parameters(model).items():
        assert torch.equal(parameter, sharded_parameters(resumed)[name])
    moments = optimizers[1].state_dict()["state"][0]["exp_avg"]
    assert moments.shape == kept.shape
    assert torch.equal(moments, saved[1]["state"][0]["exp_avg"])

    # A table that stays in its file.
    mapped = make_model()
    mapped.luke.entity_table.map(mapped.luke.entity_table.rows.detach().half())
    shard_entities(mapped, group)
    weight = mapped.luke.entity_table.weight
    assert weight.dtype == torch.float32
    assert weight.requires_grad
    assert weight.untyped_storage().nbytes() == weight.nbytes  # not a view of the whole
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def results(folder):
    return in_processes(work, folder)


@pytest.fixture
def group(tmp_path):
    """This process alone."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_rows_come_from_their_owner_and_gradients_go_there(results):
    model = make_model()
    table, bias = model.luke.entity_table.rows, model.entity_predictions.bias
    of_rows, of_bias = torch.zeros_like(table), torch.zeros_like(bias)
    for rank, found in enumerate(results):
        ids = torch.tensor(IDS[rank])
        assert torch.equal(found["rows"], table.detach()[ids])
        assert torch.equal(found["biases"], bias.detach()[ids])
        loss = table[ids].sum() * (rank + 1) + bias[ids].square().sum()
        more = torch.autograd.grad(loss, (table, bias))
        of_rows, of_bias = of_rows + more[0], of_bias + more[1]
    for name, expected in (("row gradients", of_rows), ("bias gradients", of_bias)):
        torch.testing.assert_close(torch.cat([found[name] for found in results]), expected)


def test_sampled_softmax_with_a_sharded_table(results):
    model = make_model()
    for rank, found in enumerate(results):
        expected = sampled_cross_entropy(
            torch.linspace(-1, 1, 24).view(3, 8)[rank:],
            model.luke.entity_table,
            model.entity_predictions.bias,
            torch.tensor([1, 30, 40])[rank:],
            samples=50,
            generator=torch.Generator().manual_seed(rank),
        )
        torch.testing.assert_close(found["sampled"], expected.detach())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_updates_are_those_of_one_process(results, dtype):
    tolerance = 1e-9 if dtype == "float64" else 1e-6
    for update, alone in enumerate(train_alone()):
        steps = [found[dtype][update] for found in results]
        loss = sum(step["loss"] for step in steps)
        torch.testing.assert_close(loss.double(), alone["loss"], rtol=1e-6, atol=tolerance)
        for name, expected in alone["gradients"].items():
            if name in steps[0]["gradients"] and name != TABLE:
                found = steps[0]["gradients"][name]
                assert torch.equal(found, steps[1]["gradients"][name])
            else:
                sharded = name if name == TABLE else f"{name}.weight"
                found = torch.cat([step["gradients"][sharded] for step in steps])
            torch.testing.assert_close(
                found.double(), expected, rtol=1e-4, atol=tolerance, msg=name
            )
        assert steps[1]["weights"] == {}
        assert steps[0]["weights"].keys() == alone["weights"].keys()
        for name, expected in alone["weights"].items():
            # The bias of the keys has no effect: Adam moves it by what rounding leaves.
            if dtype == "float64" or not name.endswith("key.bias"):
                found = steps[0]["weights"][name].double()
                torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, msg=name)


def test_gathered_model_is_a_model(results):
    model = make_model()
    model.load_state_dict(results[0]["float32"][-1]["weights"], assign=True)
    assert model.luke.entity_table.rows.shape == (ENTITIES, 8)


def test_shards_are_parts_of_the_table(results, folder):
    parts = [
        load_file(folder / "run" / f"entities-0000{rank + 1}-of-00002.safetensors")
        for rank in range(PROCESSES)
    ]
    whole = results[0]["float32"][-1]["weights"]
    for name in (TABLE, "entity_predictions.bias"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_bounds_leave_nothing_out():
    class Group:
        def size(self):
            return 3

    assert Shard.of(10, Group()).bounds == (0, 3, 6, 10)
    assert Shard.of(2, Group()).bounds == (0, 0, 1, 2)


def test_one_process(group, tmp_path):
    whole, model = make_model(), make_model()
    shard_entities(model, group)
    ids = torch.tensor([[3, 40]])
    assert torch.equal(model.luke.entity_table(ids), whole.luke.entity_table(ids))
    for name, tensor in gather_entities(model).items():
        assert torch.equal(tensor, whole.state_dict()[name])
    assert list(sharded_parameters(Objective(model))) == [
        f"model.{TABLE}",
        "model.entity_predictions.bias.weight",
    ]
    # Candidates are looked up too.
    states = torch.linspace(-1, 1, 32).view(2, 16)
    torch.testing.assert_close(
        model.score_masked_entities(states, ids[0]), whole.score_masked_entities(states, ids[0])
    )
    # A frozen table stays so.
    frozen = make_model()
    frozen.luke.entity_table.weight.requires_grad_(False)
    shard_entities(frozen, group)
    assert not frozen.luke.entity_table.weight.requires_grad
    assert frozen.entity_predictions.bias.weight.requires_grad


def test_what_needs_the_whole_table(group):
    model = make_model()
    shard_entities(model, group)
    table = model.luke.entity_table
    assert isinstance(table, ShardedTable)
    assert table.shape == (ENTITIES, 8)
    message = "the rows 0 to 40 of an entity table of 41; gather_entities"
    for wrong in (
        lambda: table.rows,
        lambda: table.map(torch.zeros(ENTITIES, 8)),
        lambda: table.keep([0]),
        lambda: model.score_masked_entities(torch.zeros(1, 16)),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(ValueError, match="sharded already"):
        shard_entities(model, group)
    for ids, found in ([-1, 5], "-1 to 5"), ([5, 41], "5 to 41"):
        with pytest.raises(ValueError, match=f"ids must be from 0 to 40, found {found}"):
            table(torch.tensor(ids))


def test_files_that_do_not_fit(group, tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match="the entity table is whole"):
        save_shard(model, tmp_path)
    shard_entities(model, group)
    with pytest.raises(FileNotFoundError, match="as many processes as it was saved from, here 1"):
        load_shard(model, tmp_path)
    path = save_shard(model, tmp_path)
    other = MLuke(MLukeConfig(**{**vars(CONFIG), "entity_vocab_size": 12}))
    init_model(other)
    shard_entities(other, group)
    with pytest.raises(ValueError, match=r"is of another table: expected.*'rows': '12'"):
        load_shard(other, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        load_shard(model, tmp_path)


def test_local_entities():
    model = make_model()
    local = local_entities(model)
    assert local.rows is model.luke.entity_table.weight
    assert local[1:] == (model.entity_predictions.bias, 0, None)
    plain = MLuke(MLukeConfig(**{**vars(CONFIG), "architectures": ("LukeModel",)}))
    with pytest.raises(ValueError, match=r"no masked entity head \(architectures: LukeModel\)"):
        local_entities(plain)
