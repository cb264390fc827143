"""Tiny runs: resumed is uninterrupted, stacked is single, faults stop the run and name it."""

import dataclasses
import errno
import json
import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mfgjax.lab.corpus import DOMAINS, held_out_text, read_corpus
from mfgjax.lab.folder import LabError, sole_use
from mfgjax.lab.model import Shape, normal
from mfgjax.lab.preset import Arm, Preset, arms_named, named_arm, preset_of, read_preset
from mfgjax.lab.rule import Rule, Selection, choose
from mfgjax.lab.rules import RULES
from mfgjax.lab.run import run_lab
from mfgjax.lab.store import write_state
from mfgjax.lab.train import Plan, Trainer
from mfgjax.trace import read_trace

SHAPE = Shape(experts=6, top_k=2, layers=1, width=16, hidden=8)
TWO_LAYERS = dataclasses.replace(SHAPE, layers=2)
PLAN = Plan(steps=4, chunk=2, micro_batches=3, batch=1, length=16, warmup=1)
CORPUS = read_corpus()


def preset(*arms, **changes):
    made = Preset(SHAPE, PLAN, tuple(Arm(a, a) for a in arms), seeds=2, held_out=4, traces=3)
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Leaky, two seeds, without their measures."""
    out = tmp_path_factory.mktemp("lab")
    run_lab(preset("leaky"), out, measure=False)
    return out


@cache
def trainer_of(name):
    return Trainer(SHAPE, PLAN, RULES[name])


def states(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "states").iterdir())}


def test_a_full_disk_stops_the_run_and_resumed_is_uninterrupted_bit_for_bit(
    trained, tmp_path, monkeypatch
):
    said = []

    def full(path, *args):  # from the second chunk on
        if said:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_state(path, *args)

    monkeypatch.setattr("mfgjax.lab.run.write_state", full)
    with pytest.raises(LabError, match=r"disk is full.*kept.*run the same command again"):
        run_lab(preset("leaky"), tmp_path, measure=False, progress=said.append)
    assert [told.step for told in said] == [PLAN.chunk]
    monkeypatch.undo()
    run_lab(preset("leaky"), tmp_path, measure=False, progress=said.append)
    assert [told.step for told in said] == [PLAN.chunk, PLAN.steps]  # not from the start
    assert states(tmp_path) == states(trained)
    names = [p.relative_to(trained) for p in sorted(trained.rglob("*.statistics.safetensors"))]
    assert len(names) == 2 * 3
    for name in names:
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_one_process_works_in_a_folder(trained):
    with sole_use(trained), pytest.raises(ValueError, match="another run of the lab works"):
        run_lab(preset("leaky"), trained, measure=False)
    with sole_use(trained):  # and the refused one has not kept it
        pass


def test_traces_say_what_the_router_did(trained):
    leaky = read_trace(next((trained / "arms/leaky/seed0").glob("step4-*")))
    assert leaky.metadata.step == 4
    assert leaky.metadata.tokens_seen == 4 * PLAN.tokens
    assert leaky.selection_bias.any()
    assert leaky.choice_bound is not None


def test_stacked_runs_are_single_runs():
    trainer = Trainer(TWO_LAYERS, PLAN, RULES["leaky"])
    runs = [(0, {}), (1, {"congestion": 80.0})]
    both, record = trainer.run_chunk(trainer.start(runs), CORPUS.training, CORPUS.length)
    for place, run in enumerate(runs):
        one, alone = trainer.run_chunk(trainer.start([run]), CORPUS.training, CORPUS.length)
        for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(
                a[place], b[0], rtol=1e-4, atol=1e-6
            )  # order of float32 sums
        np.testing.assert_array_equal(record.counts[place], alone.counts[0])
    assert not np.array_equal(record.counts[0], record.counts[1])


def test_first_weights_are_those_of_draws_of_their_own_size():
    key, size = jax.random.key(1), (SHAPE.width, SHAPE.experts)
    alone = np.float32(0.02) * np.asarray(jax.random.normal(key, size, jnp.float32))
    np.testing.assert_array_equal(normal(0.02, SHAPE)(key, size), alone)


def test_one_seed_is_one_start_and_one_text_for_every_rule():
    starts, losses = [], []
    for name in ("none", "leaky"):
        trainer = trainer_of(name)
        state = trainer.start([(3, {})])
        starts.append([np.asarray(x) for x in jax.tree.leaves(state.params)])
        losses.append(np.asarray(trainer.run_chunk(state, CORPUS.training, CORPUS.length)[1].loss))
    for a, b in zip(*starts, strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses[0][0, 0] == losses[1][0, 0]  # before the first update


def test_controller_that_is_off_is_no_controller_bit_for_bit():
    found = []
    for name, settings in (("none", {}), ("hold-violation", {"on": 0.0})):
        trainer = trainer_of(name)
        state, _ = trainer.run_chunk(trainer.start([(0, settings)]), CORPUS.training, CORPUS.length)
        found.append([np.asarray(x) for x in jax.tree.leaves(state.params)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def run_with(rule, tmp_path, **settings):
    arms = (named_arm("mine", settings),)
    asked = preset(shape=TWO_LAYERS, arms=arms)
    return run_lab(asked, tmp_path, rules={"mine": rule}, measure=False)


def none(logits, state, context):
    return choose(logits, logits, context.top_k)


def choose_once_or_twice(logits, state, context):
    picked = none(logits, state, context)
    return picked._replace(choices=jnp.where(state["twice"] > 0, 0, picked.choices))


FAULTY = Rule(
    choose_once_or_twice,
    lambda state, *_: state | {"steps": state["steps"] + 1},
    loss=lambda layers, state, context: jnp.where(state["steps"][0] >= 3, jnp.nan, 0.0),
    settings={"steps": 0.0, "twice": 0.0},
)
"""Its loss is no number from the fourth step on; with `twice` it chooses one expert twice."""


def test_losses_that_are_no_numbers_stop_the_run_and_keep_what_was(tmp_path):
    with pytest.raises(LabError, match=r"arm mine, seed 0, step 3: its loss is no number"):
        run_with(FAULTY, tmp_path)
    kept = load_file(tmp_path / "states" / "mine-0.safetensors")
    assert kept["history.loss"].shape == (2, PLAN.chunk)  # the chunk before
    assert np.isfinite(kept["history.loss"]).all()


def test_a_rule_that_chooses_one_expert_twice_stops(tmp_path):
    with pytest.raises(LabError, match="arm mine-twice=1, seed 0, step 0: the rule chose"):
        run_with(FAULTY, tmp_path, twice=1)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            lambda z, s, c: choose(z, z, c.top_k + 1),
            "(48, 2) was expected: 2 for each of 48 tokens",
        ),
        (lambda z, s, c: Selection(z[:, :2], z[:, :2]), "float32 choices"),
    ],
)
def test_a_rule_of_wrong_shapes_is_told_what_was_expected(tmp_path, select, message):
    with pytest.raises(ValueError, match="select returned") as told:
        run_with(Rule(select), tmp_path)
    assert message in str(told.value)


def test_a_memory_of_another_form_is_refused(tmp_path):
    rule = Rule(none, lambda state, *_: state | {"more": jnp.zeros(2)}, settings={"a": 1.0})
    with pytest.raises(ValueError, match="update returned"):
        run_with(rule, tmp_path)


def test_a_dropless_run_that_drops_fails(tmp_path):
    narrow = Shape(experts=10, top_k=2, layers=1, width=16, hidden=8, capacity_factor=1.0)
    assert not narrow.dense
    with pytest.raises(LabError, match="not dropless"):
        run_lab(preset("none", shape=narrow, seeds=1), tmp_path, measure=False)


def test_a_folder_takes_further_arms_and_seeds_and_keeps_what_it_has(trained, tmp_path):
    folder, told = tmp_path / "lab", []
    shutil.copytree(trained, folder)
    wider = preset("leaky", "none", seeds=3)
    results = run_lab(wider, folder, at_once=1, measure=False, progress=told.append)
    assert [(one.rule, one.step) for one in told] == [
        (rule, step) for rule in ("leaky", "none", "none", "none") for step in (2, 4)
    ]
    assert results["batches"] == {
        "leaky-0": [["leaky", 0], ["leaky", 1]],
        "leaky-1": [["leaky", 2]],
        **{f"none-{seed}": [["none", seed]] for seed in range(3)},
    }
    assert states(folder)["leaky-0.safetensors"] == states(trained)["leaky-0.safetensors"]
    alone = trainer_of("leaky").start([(2, {})])
    for _ in range(2):
        alone, record = trainer_of("leaky").run_chunk(alone, CORPUS.training, CORPUS.length)
    added = load_file(folder / "states/leaky-1.safetensors")
    np.testing.assert_array_equal(added["history.counts"][:, 2:], record.counts)
    fewer = run_lab(preset("none"), folder, measure=False, progress=told.append)
    assert fewer["preset"]["seeds"] == 3  # and nothing is forgotten of a folder
    assert len(fewer["preset"]["arms"]) == 2
    assert len(told) == 8


def test_a_folder_of_other_models_is_refused(trained):
    with pytest.raises(ValueError, match=r"another preset \(preset.json: plan\)"):
        run_lab(preset("leaky", plan=dataclasses.replace(PLAN, steps=6)), trained, measure=False)


def test_what_does_not_fit_is_refused_before_anything_is_made(tmp_path):
    huge = dataclasses.replace(SHAPE, width=32, hidden=2**28)  # 600 GB of weights
    with pytest.raises(ValueError, match=r"one run needs \d{4}.* GB"):
        run_lab(preset("none", shape=huge, seeds=1), tmp_path, measure=False)
    assert not (tmp_path / "preset.json").exists()  # the folder is free for a smaller one


def test_as_many_runs_at_once_as_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("mfgjax.lab.run.available_memory", lambda: 10**12)
    monkeypatch.setattr("mfgjax.lab.run.memory_of", lambda _, runs: runs * 6 * 10**11)
    run_lab(preset("none"), tmp_path, measure=False)
    assert json.loads((tmp_path / "preset.json").read_text())["batches"] == {
        f"none-{seed}": [["none", seed]] for seed in range(2)
    }
    assert len(states(tmp_path)) == 2


def test_text_is_of_single_domains_and_never_of_both_sides():
    text = held_out_text(CORPUS, 4, 17)
    assert [int((text.domain == d).sum()) for d in range(len(DOMAINS))] == [4, 4, 4]
    whole = [bytes(row[:n]) for row, n in zip(CORPUS.training, CORPUS.length, strict=True)]
    for domain, documents in enumerate(CORPUS.held_out):
        assert all(document not in whole[domain] for document in documents if len(document) > 500)


def test_arms_are_named_by_their_own_name_or_their_rule_s():
    grid = read_preset("grid", RULES)
    found = [arm.name for arm in arms_named(grid, ["sign", "auxiliary-alpha=0.01"])]
    assert found == ["auxiliary-alpha=0.01", *(f"sign-step={u:g}" for u in (0.001, 0.01, 0.05))]
    with pytest.raises(ValueError, match="no arm nonesuch; it has none, aux"):
        arms_named(grid, ["none", "nonesuch"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": [{"rule": "nonesuch"}]}, "no rule 'nonesuch'"),
        ({"arms": [{"rule": "sign", "alpha": 1}]}, "has no setting alpha; it has step"),
        ({"arms": []}, "no arms"),
        ({"seeds": 0}, "seeds is 0"),
        ({"shape": {"experts": 4, "top_k": 4}}, "1 to M - 1"),
        ({"plan": {"steps": 10, "chunk": 3}}, "a divisor"),
        ({"unknown": 1}, "not a preset"),
    ],
)
def test_presets_that_are_none(change, message):
    content = {"arms": [{"rule": "none"}], "seeds": 1, "held_out": 4, "traces": 2}
    assert preset_of(content, RULES, "here").arms == (Arm("none", "none"),)
    with pytest.raises(ValueError, match="here: ") as told:
        preset_of(content | change, RULES, "here")
    assert message in str(told.value)
