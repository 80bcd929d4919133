import dataclasses
import gc
import random
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_world import RECIPE, Everything, Harmful, clip, close, files, image_set, make_task, same

from steadyclip.adapters import AdapterSpec
from steadyclip.core.errors import DataError, ModelError, SteadyClipError, UsageError
from steadyclip.data import loader
from steadyclip.evaluation import evaluate
from steadyclip.methods import get_method
from steadyclip.models import Adapter
from steadyclip.objectives import CrossEntropy, Term
from steadyclip.objectives.streams import StreamSpec
from steadyclip.training import TrainConfig, fit
from zero_shot import zero_shot_logits

QUIET = TrainConfig(progress=False, log_every=1)


def trained(method=None, recipe=None, config=QUIET, task=None):
    model = clip()
    fit(model, method or Everything(), task or make_task(), recipe=recipe, config=config)
    return model.trained_state()


# ---- reference, determinism, convergence


def by_hand(model, task, steps: int) -> dict[str, torch.Tensor]:
    """The training of RECIPE, as one would write it without a trainer."""
    model.requires_grad_(True)
    network = model.network
    decayed = [p for p in network.parameters() if p.ndim > 1]
    spared = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}])
    rates = [0.5e-3, 1e-3] + [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * i / 5)).item()) / 2 for i in range(5)]
    tokens = model.tokenize([f"a photo of a {name}." for name in task.classes])
    batches = [
        batch
        for epoch in range(4)
        for batch in loader(
            task.train, model.preprocess.train, batch_size=6, seed=1, epoch=epoch, augment=True, drop_last=True
        )
    ]
    for rate, (images, labels, _) in zip(rates[:steps], batches, strict=False):
        out = network(pixel_values=images, **tokens)
        loss = F.cross_entropy(out.logits_per_image, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return model.trained_state()


def test_the_weights_are_those_of_a_loop_by_hand() -> None:
    assert close(trained(), by_hand(clip(), make_task(), 7))
    assert not close(trained(), by_hand(clip(), make_task(), 6))


@pytest.mark.parametrize("name", ["everything", "lora"])
def test_twice_the_same(name) -> None:
    method = Everything() if name == "everything" else get_method("lora")  # lora has dropout
    first = trained(method, RECIPE)
    torch.manual_seed(1234)
    random.seed(5)
    assert same(first, trained(method, RECIPE))
    assert not same(first, trained(method, RECIPE, dataclasses.replace(QUIET, seed=2)))


def test_a_separable_problem_is_learned() -> None:
    model, recipe = clip(), dataclasses.replace(RECIPE, steps=40)
    result = fit(model, Everything(), make_task(), recipe=recipe, config=dataclasses.replace(QUIET, log_every=5))
    assert len(result.losses) == 8
    assert result.losses[0] > 0.3
    assert result.losses[-1] < 0.02
    task = make_task(3, name="other")
    images = torch.stack([model.preprocess(task.train.read(i)) for i in range(12)])
    logits = zero_shot_logits(
        model, model.encode_image(images), model.encode_text([f"a photo of a {c}." for c in task.classes])
    )
    assert logits.argmax(1).tolist() == list(task.train.labels)


# ---- what must not change the weights, and what must


def test_accumulation_is_the_whole_batch() -> None:
    # AdamW and clipping would hide a gradient of the wrong size.
    plain = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.02, clip_norm=None)
    config = dataclasses.replace(QUIET, accumulate=4)
    assert close(trained(recipe=plain), trained(recipe=plain, config=config), 1e-6)


def test_looking_and_logging_change_nothing(tmp_path) -> None:
    config = TrainConfig(out=tmp_path / "run", progress=False, log_every=3, checkpoint_steps=2, workers=1)
    assert same(trained(), trained(config=config))


def test_precisions_can_follow_each_other_in_one_process() -> None:
    half = trained(config=dataclasses.replace(QUIET, precision="bf16"))
    full = trained()
    assert all(value.dtype == torch.float32 for value in half.values())
    assert not close(half, full, 1e-6)
    assert close(half, full, 0.02)


def test_clipping_and_momentum_reach_the_optimizer() -> None:
    clipped = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.01, clip_norm=1e-3)
    plain = dataclasses.replace(clipped, clip_norm=None)
    base = {name: value.clone() for name, value in clip().network.named_parameters()}

    def moved(recipe) -> float:
        return max((v - base[n.removeprefix("network.")]).abs().max().item() for n, v in trained(recipe=recipe).items())

    assert moved(clipped) < moved(plain) / 5


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trained(get_method("lora"), RECIPE)
    assert torch.equal(torch.rand(4), expected)


# ---- streams, modes, parts of the model


class Mean(Term):
    """Looks at what it is given."""

    @property
    def label(self) -> str:
        return "pull"

    def __call__(self, f):
        words = f.stream("words")
        assert list(words) == ["length"]
        assert words["length"].shape == f.labels().shape
        seen.append(words["length"].tolist())
        return words["length"].float().mean()


class Lengths(StreamSpec):
    def build(self, model, task):
        return Words()


class Pull(Everything):
    name = "pull"

    def objective(self):
        return CrossEntropy() + Mean()

    def streams(self):
        return {"words": Lengths()}

    def check(self):
        """Its term reads the stream by itself."""


class Words:
    def __len__(self) -> int:
        return 5

    def item(self, index, rng):
        return {"length": index + 10 * rng.randint(0, 3)}

    def collate(self, items):
        return {"length": torch.tensor([item["length"] for item in items])}


seen: list = []


def test_streams_reach_the_loss_in_a_seeded_order_and_terms_are_logged(tmp_path) -> None:
    seen.clear()
    config = dataclasses.replace(QUIET, out=tmp_path / "run")
    result = fit(clip(), Pull(), make_task(), config=config)
    first = list(seen)
    assert len(first) == 7
    assert set(result.run.results.loss) == {"mean", "cross_entropy", "pull"}
    assert result.run.results.loss["pull"] == pytest.approx(sum(first[-1]) / 6)
    assert result.losses[-1] == pytest.approx(
        result.run.results.loss["cross_entropy"] + result.run.results.loss["pull"]
    )
    seen.clear()
    fit(clip(), Pull(), make_task(), config=QUIET)
    assert seen == first


class Watched(Adapter):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def install(self):
        return []


class Watch(AdapterSpec):
    """A parameter beside the image tower, and the weights of its last block."""

    def attach(self, model):
        model.requires_grad_(False)
        model.attach("watched", Watched())
        model.keep_frozen_copy()
        model.image_tower.blocks[1].module.requires_grad_(True)


class Gain(Term):
    """Notes in which mode everything is."""

    def __call__(self, f):
        modes.append(
            (
                f.model.adapters["watched"].training,
                [block.module.training for block in f.model.image_tower.blocks],
                any(block.module.training for block in f.model.text_tower.blocks),
            )
        )
        return f.model.adapters["watched"].gain.sum() * 1e-3


class Modes(Everything):
    name = "modes"

    adapters = (Watch(towers="image"),)

    def objective(self):
        return CrossEntropy() + Gain()


modes: list = []


def test_only_what_is_trained_is_in_training_mode_and_only_meanwhile() -> None:
    model = clip()
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    fit(model, Modes(), make_task(), config=QUIET)
    assert modes == [(True, [False, True], False)] * 7
    assert not any(module.training for module in model.modules())
    changed = {name for name, value in model.network.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("vision_model.encoder.layers.1." in name for name in changed)
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- methods that take no gradient steps


def test_a_probe_learns_from_cached_features(tmp_path) -> None:
    config = dataclasses.replace(QUIET, out=tmp_path / "run", feature_folder=tmp_path / "cache")
    model, task = clip(), make_task(4, val=2)
    result = fit(model, get_method("linear-probe"), task, config=config)
    assert result.losses == []
    assert result.images_per_second > 0
    assert result.run.results.steps == 0
    assert set(result.run.results.choices) == {"strength", "validation"}
    assert files(tmp_path / "run") == {"run.json", "split.json", "trained.safetensors"}
    assert model.head.weight.abs().max() > 0

    again = dataclasses.replace(config, out=tmp_path / "again")
    second = fit(clip(), get_method("linear-probe"), task, config=again)
    assert second.images_per_second is None  # nothing was encoded
    assert second.run.results.choices == result.run.results.choices
    weights = [(tmp_path / run / "trained.safetensors").read_bytes() for run in ("run", "again")]
    assert weights[0] == weights[1]


def test_a_method_that_learns_nothing_leaves_a_run(tmp_path) -> None:
    model = clip()
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    result = fit(model, get_method("zero-shot"), make_task(), config=dataclasses.replace(QUIET, out=tmp_path / "run"))
    assert result.run.finished
    assert files(tmp_path / "run") == {"run.json", "split.json", "trained.safetensors"}
    assert same(before, dict(model.network.named_parameters()))


# ---- bad input


def test_a_model_that_was_trained_before_is_refused() -> None:
    model = clip()
    fit(model, get_method("lora"), make_task(), recipe=RECIPE, config=QUIET)
    with pytest.raises(ModelError, match="load it afresh"):
        fit(model, get_method("lora"), make_task(), recipe=RECIPE, config=QUIET)


def test_one_class_and_no_images_are_refused() -> None:
    task = dataclasses.replace(make_task(), train=image_set(3, classes=("red",)))
    with pytest.raises(DataError, match="only 1 class"):
        fit(clip(), Everything(), task, config=QUIET)
    task = make_task()
    with pytest.raises(DataError, match="no training images"):
        fit(clip(), Everything(), dataclasses.replace(task, train=task.train.subset([])), config=QUIET)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accumulate", 0),
        ("log_every", 0),
        ("checkpoint_steps", 0),
        ("checkpoint_minutes", 0.0),
        ("workers", -1),
        ("smallest_crop", 0.0),
        ("precision", "fp16"),
        ("device", "cuda:1"),
    ],
)
def test_a_senseless_setting_is_named(field, value) -> None:
    with pytest.raises(UsageError, match=f"^{field}(=| {value!r} is not there)"):
        fit(clip(), Everything(), make_task(), config=dataclasses.replace(QUIET, **{field: value}))


@pytest.mark.parametrize("scored", [None, 2])
def test_a_model_is_let_go_after_its_training(tmp_path, scored) -> None:
    """Without the garbage collector, which a GPU that gets full does not call."""
    config = TrainConfig(out=tmp_path / "run", progress=False, checkpoint_steps=2, validate_every=scored)
    gc.collect()
    gc.disable()
    try:
        model, task = clip(), make_task(val=2)
        there = weakref.ref(model)
        result = fit(model, Everything(), task, config=config)
        evaluate(model, Everything(), task.val)
        del model
        assert there() is None, gc.get_referrers(there())
        assert result.run.results
    finally:
        gc.enable()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loss_that_is_not_finite_stops_with_step_pictures_and_checkpoint(tmp_path, accumulate) -> None:
    config = TrainConfig(out=tmp_path / "run", progress=False, checkpoint_steps=2, log_every=50, accumulate=accumulate)
    with pytest.raises(SteadyClipError) as caught:
        fit(clip(), Harmful(harm="nan", at=3), make_task(), config=config)
    line = str(caught.value)
    assert "not finite at step 3 (cross_entropy = nan)" in line
    assert "step-00000002" in line
    assert "\n" not in line
    order = loader(make_task().train, lambda image: torch.zeros(1), batch_size=6, seed=1, epoch=1, drop_last=True)
    keys = [make_task().train.keys[i] for i in list(order)[1][2].tolist()]
    assert all(key in line for key in keys)
    assert sum(key in line for key in make_task().train.keys) == 6


def test_a_gradient_that_is_not_finite_spoils_no_checkpoint(tmp_path) -> None:
    config = TrainConfig(out=tmp_path / "run", progress=False, checkpoint_steps=2)
    with pytest.raises(SteadyClipError, match=r"gradient is not finite at step 3 .*step-00000002"):
        fit(clip(), Harmful(harm="nan gradient", at=3), make_task(), config=config)
    with pytest.raises(SteadyClipError, match=r"gradient is not finite at step 6 .*checkpoint: none"):
        fit(clip(), Harmful(harm="nan gradient", at=6), make_task(), config=QUIET)


def test_a_method_that_trains_nothing_by_steps_is_told(tmp_path) -> None:
    class Nothing(Everything):
        name = "nothing"
        adapters = ()

    config = dataclasses.replace(QUIET, out=tmp_path / "run")
    with pytest.raises(UsageError, match="has nothing to train"):
        fit(clip(), Nothing(), make_task(), config=config)
    assert not (tmp_path / "run").exists()
