"""The training loop of methods that are trained by gradient steps."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from steadyclip.core.errors import OutOfMemory, SteadyClipError, UsageError
from steadyclip.core.precision import arithmetic
from steadyclip.core.progress import warn
from steadyclip.core.provenance import numeric_flags
from steadyclip.core.seeds import step_seed
from steadyclip.data.cutout import cutout
from steadyclip.evaluation import metrics
from steadyclip.evaluation.records import Results
from steadyclip.evaluation.scorer import Scorer
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.models.compiling import Compiled
from steadyclip.models.features import image_features
from steadyclip.models.sharding import clip_gradients, whole
from steadyclip.objectives import Batch
from steadyclip.objectives.streams import Stream
from steadyclip.training.cache import FeatureCache, cacheable, fill_head
from steadyclip.training.checkpoint import Checkpoint, save_checkpoint
from steadyclip.training.config import TrainConfig
from steadyclip.training.feed import Feed, Sample
from steadyclip.training.fitting import Fitting
from steadyclip.training.monitor import Best, Losses, TrainProgress, flat_row, stop_request
from steadyclip.training.run import RunFolder, Stopped, identity
from steadyclip.training.schedule import learning_rate, load_optimizer, make_optimizer, optimizer_tensors
from steadyclip.training.step import RunningAverage, Step

if TYPE_CHECKING:
    from accelerate import Accelerator

    from steadyclip.data import ImageTask
    from steadyclip.models import DualEncoder

# Image keys that an error message lists.
_KEYS = 32


class Loop:
    """One training. ``run`` takes it from a checkpoint, or the start, to the end."""

    def __init__(
        self,
        model: DualEncoder,
        method: Method,
        task: ImageTask,
        streams: Mapping[str, Stream],
        recipe: Recipe,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: RunFolder | None,
        compiled: Compiled | None = None,
    ) -> None:
        """The method is attached to ``model`` already.

        Raises:
            UsageError: there is nothing to train, or the batch is too small for the processes.
        """
        self.model, self.method, self.task, self.recipe, self.config = model, method, task, recipe, config
        self.accelerator, self.folder, self.alone = accelerator, folder, accelerator.num_processes == 1
        self.step = Step(method, model, task.classes, task.templates, config.accumulate)
        if not self.step.trained:
            raise UsageError(f"method {method.name!r} has a recipe, but none of its pieces has anything to train.")
        self.step.planner.arithmetic = lambda: arithmetic(model.device, config.precision)
        self.fitting = Fitting(self.step, config.microbatch, compiled)
        if config.microbatch == "auto" and not self.alone:
            raise UsageError("microbatch=auto looks at one process, and there are several: set accumulate instead.")
        self.names = {p: name for name, p in self.step.trained.items()}
        self.optimizer = make_optimizer(recipe, self.names)
        shard = accelerator.process_index, accelerator.num_processes
        self.feed = Feed(task, model.preprocess, recipe.batch_size, config, streams, recipe.views, shard)
        recipe = dataclasses.replace(recipe, batch_size=self.feed.batch_size)
        self.steps = recipe.total_steps(len(task.train), len(task.classes))
        if recipe.warmup_steps >= self.steps:
            warn(
                f"{method.name}: the warm-up of {recipe.warmup_steps} steps does not end within the {self.steps} steps "
                "of the training, so that the learning rate never reaches its peak"
            )
        self.cache = FeatureCache(self.step.planner, task.train, config, self.feed.views != 0)
        # no bound methods: a loop that refers to itself would keep its model until the garbage collector comes by
        self._sum: Callable[[Tensor], Tensor] = functools.partial(accelerator.reduce, reduction="sum")  # type: ignore[assignment]
        self._not_finite = functools.partial(_not_finite, self.feed, folder)
        self.losses = Losses(self._sum, self._not_finite)
        self.best = Best(config.patience)
        if config.patience is not None and method.average is not None:
            raise UsageError(f"{method.name} averages its weights, and patience looks at single steps: leave it out.")
        if config.validate_every is not None and not len(task.val):
            raise UsageError(f"{task.name} has no validation images to score: leave validate_every out.")
        self.choices: dict[str, Any] = {}
        self.start, self.seconds_before = 0, 0.0

    def run(self, checkpoint: Checkpoint | None = None) -> Results:
        """Train from ``checkpoint`` on, and return what ``run.json`` keeps of it.

        Raises:
            SteadyClipError: the loss is not finite, a checkpoint cannot be written, or a signal asked to stop.
        """
        self._begin(checkpoint)
        self._set_modes()
        main = self.accelerator.is_main_process
        progress = TrainProgress(self.method.name, self.steps, self.start, self.config.progress and main)
        if self.start:
            progress.say(f"{self.method.name}: going on from step {self.start}")
        if self.folder and main:
            self.folder.restart_log(self.losses.rows)
        self.began = self.saved = self.logged = time.monotonic()
        done = logged_at = self.start
        feed = self.feed.steps(self.start, self.steps)
        with progress, stop_request(self.folder is not None) as asked:
            while done < self.steps:
                try:
                    sample = next(feed)
                except RuntimeError:  # a worker process got the signal too, and has ended
                    if not asked:
                        raise
                    self._stop(done, asked[0])
                try:
                    self._step(done, sample)
                except OutOfMemory as error:
                    raise self._saved(done, error) from None
                done += 1
                progress.update(completed=done)
                if self.alone and self.model.device.type == "cpu":  # elsewhere it waits for the device, or for others
                    self.losses.look()
                every = self.config.validate_every
                scored = every is not None and (done % every == 0 or done == self.steps)
                if scored or done % self.config.log_every == 0 or done == self.steps:
                    row = self._log(done, done - logged_at, **self._validate(done) if scored else {})
                    left = (self.logged - self.began) / (done - self.start) * (self.steps - done)
                    progress.log(row, left)
                    logged_at = done
                if self.best.given_up:
                    progress.say(f"{self.method.name}: stopped at step {done}, as step {self.best.step} was better")
                    break
                if done < self.steps:
                    if self._agree(bool(asked), done):
                        self._stop(done, asked[0] if asked else "a signal to another process")
                    elif self._due(done):
                        self._save(done)
        if self.best.weights:
            self.model.load_trained_state(self.best.weights)
            self.choices |= {"best step": self.best.step, "validation top1": self.best.top1}
        self.average.finish()
        self._expect_finite(done, self.model.trained_state())
        self.optimizer.zero_grad(set_to_none=True)
        seconds, last = self._seconds(), self.losses.rows[-1]
        return Results(
            steps=done,
            choices=self.choices,
            processes=self.accelerator.num_processes,
            device=self.accelerator.device.type,
            threads=torch.get_num_threads(),
            flags=numeric_flags(self.model.device.type) | self._compiler(),
            loss={"mean": last["loss"], **last["terms"]},
            unreadable=tuple(sorted(self.feed.skipped.items())),
            seconds=seconds,
            images_per_second=done * self.feed.batch_size / seconds,
        )

    def _compiler(self) -> dict[str, Any]:
        """What became of the compiler, if there was to be one."""
        compiled = self.fitting.compiled
        return {"compiled": compiled.reason or True} if compiled else {}

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """Continue from the checkpoint, or fill the head; then make the average and the cached features."""
        solve = self.method.head.solves and not checkpoint
        if checkpoint:
            self._resume(checkpoint)
        elif solve:
            self.choices, _ = fill_head(self.step.planner, self.task, self.config, self.cache)
        # The average starts from what the head was filled with.
        self.average = RunningAverage(self.method, self.step, self.steps, self.feed.steps_per_epoch)
        if checkpoint and self.average.values:
            self.average.restore(checkpoint.tensors("average"))
        self._fill_cache()
        if solve:
            self._save(0)  # so that a resumed training does not fill the head again

    def _step(self, step: int, sample: Sample) -> None:
        batch = self._batch(sample, step)
        totals = self.fitting.gradients(batch, step_seed(self.config.seed, step), self.feed.batch_size)
        if self.step.accumulate != self.config.accumulate:
            self.choices["parts"] = self.step.accumulate
        if self.recipe.clip_norm is not None:
            clip_gradients(self.names, self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step, self.steps)
        self.optimizer.step()
        for weight in self.step.trained.values():  # a fused step does not count as a change of its weights
            torch.autograd.graph.increment_version(weight)
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(step + 1)
        self.losses.add(step, totals)

    def _batch(self, sample: Sample, step: int) -> Batch:
        from accelerate.utils import send_to_device

        device, images_BCHW = self.model.device, sample.images_BCHW
        later = device.type == "cuda"  # elsewhere the copy may be read before it is there
        if images_BCHW is not None:
            images_BCHW = images_BCHW.to(device, non_blocking=later)
            if self.config.cutout:
                seeds = [f"{self.config.seed}/{step}/{key}" for key in sample.keys]
                images_BCHW = cutout(self.model.preprocess.normalize(images_BCHW), self.config.cutout, seeds)
        return Batch(
            labels_B=sample.labels_B.to(device, non_blocking=later),
            keys=sample.keys,
            images_BCHW=images_BCHW,
            known=self.cache.rows(sample.index_B, sample.view),
            streams=send_to_device(sample.streams, device, non_blocking=later),
        )

    def _fill_cache(self) -> None:
        """Compute what can be cached for all images and views; then images are decoded only if a pass needs them."""
        feed, config = self.feed, self.config
        reads = cacheable(self.step.reads)
        if not reads or feed.views is None or config.cache == "off" or config.cutout:
            self.cache.tables.clear()
            return
        views = max(1, min(feed.views, math.ceil(self.steps / feed.steps_per_epoch)))
        self.cache.fill(reads, views, "features of the frozen model")
        feed.skipped.update(self.cache.skipped)
        feed.decode = any(read.tower == "image" and read not in reads for read in self.step.reads)
        self.step.planner.calls.clear()

    def _set_modes(self) -> None:
        """Dropout is active in adapters and in blocks whose own weights are trained, and nowhere else."""
        self.model.eval()
        self.model.adapters.train()
        if self.model.head is not None:
            self.model.head.train()
        for tower in (self.model.image_tower, self.model.text_tower):
            for block in tower.blocks:
                block.module.train(any(p.requires_grad for p in block.module.parameters()))

    # ---- losses

    def _validate(self, done: int) -> dict[str, float]:
        """Scores the validation images as they would be scored after the training. No random number is drawn."""
        precision = self.config.precision
        scorer = Scorer(self.model, self.method, self.task.classes, self.task.templates, precision)
        frozen = "image" not in self.method.touched
        features = image_features(
            self.model, self.task.val, workers=self.config.workers, precision=precision, frozen=frozen
        )
        logits_NC = torch.cat([part.float().cpu() for part in scorer.every(features.rows)])
        top1 = metrics.top1(logits_NC.argmax(dim=1), features.labels_N)
        if not self.alone:  # devices may differ in a near tie, but what is best has to be one and the same for all
            own = top1 if self.accelerator.is_main_process else 0.0
            top1 = float(self._sum(torch.tensor(own, dtype=torch.float64, device=self.accelerator.device)))
        self.best.look(done, top1, self.model.trained_state)
        loss = torch.nn.functional.cross_entropy(logits_NC, features.labels_N)
        return {"validation_top1": top1, "validation_loss": float(loss)}

    def _log(self, done: int, steps: int, **more: float) -> dict[str, Any]:
        self.losses.look()
        before, self.logged = self.logged, time.monotonic()
        row = self.losses.log(
            done,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images_per_second=steps * self.feed.batch_size / max(self.logged - before, 1e-9),
            **more,
        )
        if self.config.log:
            self.accelerator.log(flat_row(row), step=done)
        if self.folder and self.accelerator.is_main_process:
            self.folder.log(row)
        return row

    def _expect_finite(self, done: int, trained: dict[str, Tensor]) -> None:
        bad = [name for name, tensor in trained.items() if not tensor.isfinite().all()]
        if bad and not done:
            raise SteadyClipError(f"what the head was filled with is not finite ({bad[0]}); training stopped.")
        if bad:  # the loss was finite, so it was the gradient of the last step that was not
            step = done - 1
            raise self._not_finite(step, f"the gradient is not finite at step {step} ({bad[0]} was spoiled by it)")

    # ---- checkpoints

    def _due(self, done: int) -> bool:
        if self.folder is None:
            return False
        every, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self.saved >= 60 * minutes
        return (every is not None and done % every == 0) or self._agree(late, done)

    def _agree(self, wish: bool, done: int) -> bool:
        """Whether any process wishes; several processes ask each other at log steps only, as it makes them wait."""
        if self.alone or done % self.config.log_every:
            return self.alone and wish
        return bool(self._sum(torch.tensor(float(wish), device=self.accelerator.device)))

    def _save(self, done: int) -> None:
        losses = self.losses.state()
        self.saved = time.monotonic()
        trained = self.model.trained_state()
        self._expect_finite(done, trained)
        main = self.accelerator.is_main_process
        if self.folder is None or not (main or self.step.split):  # what is split is gathered by all processes
            return
        parts = {"trained": trained, "optimizer": optimizer_tensors(self.optimizer, self.names)}
        if self.average.values:
            parts["average"] = {name: whole(value) for name, value in self.average.values.items()}
        if self.best.weights:
            parts["best"] = self.best.weights
        if not main:
            return
        state = {
            "identity": identity(self.folder.run),
            "losses": losses,
            "unreadable": self.feed.skipped,
            "seconds": self._seconds() if done else 0.0,
            "choices": self.choices,
            "best": self.best.state(),
        }
        save_checkpoint(self.folder.checkpoints, done, parts, state)

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.start, state = checkpoint.step, checkpoint.state
        self.model.load_trained_state(checkpoint.tensors("trained"))
        load_optimizer(self.optimizer, self.names, checkpoint.tensors("optimizer"))
        self.losses.restore(state["losses"])
        self.feed.skipped.update(state["unreadable"])
        self.seconds_before, self.choices = state["seconds"], state["choices"]
        self.step.accumulate = self.choices.get("parts", self.step.accumulate)
        if best := state.get("best"):
            self.best.restore(best, checkpoint.tensors("best") if "best" in state["sums"] else {})

    def _saved(self, done: int, error: OutOfMemory) -> OutOfMemory:
        """The error, once everything before the step that failed is saved."""
        if self.folder is None or not self.alone:
            return OutOfMemory(f"{error}.")
        self._save(done)
        return OutOfMemory(
            f"{error}. All of the {done} steps before are saved in {self.folder.path}: the same command goes on from "
            "there."
        )

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _stop(self, done: int, why: str) -> NoReturn:
        assert self.folder is not None
        self._save(done)
        raise Stopped(
            f"stopped by {why} after step {done} of {self.steps}; all of it is saved in {self.folder.path}. "
            "The same command again goes on from there."
        ) from None


def _not_finite(feed: Feed, folder: RunFolder | None, step: int, what: str) -> SteadyClipError:
    """The error of a loss or gradient that is not finite, with the images of the step ``step``."""
    from accelerate.utils import gather_object

    keys = gather_object(list(feed.keys(step)))
    listed = ", ".join(keys[:_KEYS]) + (f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else "")
    good = folder.checkpoint() if folder else None
    return SteadyClipError(
        f"{what}; training stopped. Images of that batch: {listed}. "
        f"Last good checkpoint: {good.path if good else 'none'}. "
        "Lower learning_rate or set clip_norm, in another folder, or look at these images."
    )
