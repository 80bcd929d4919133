"""`anchors`: captions and retrieved pairs, from images to a page to look at."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from steadyclip.commands.options import EMBEDDED, DataOptions, SubsetName, named_values, say
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.extensions import POOLS, absent, load_extension
from steadyclip.core.limits import BatchSize, Count, Limits, Number, Seed, Workers
from steadyclip.core.precision import Precision, best_device
from steadyclip.core.progress import progress_bar

if TYPE_CHECKING:
    from steadyclip.anchors.engines import How
    from steadyclip.data import ImageSet


@dataclasses.dataclass(frozen=True)
class _FineTuneImages:
    shots: Count | None = None
    """Training images per class, as for `steadyclip train`; all of them if not given."""
    seed: Seed = 1
    """Of the few-shot sample."""
    subset: SubsetName = "all"
    """Classes."""

    def of(self, source: DataOptions) -> ImageSet:
        task = source.load().task(shots=self.shots, seed=self.seed, subset=self.subset, verify=False)
        say(*task.notes)
        return task.train


@dataclasses.dataclass(frozen=True)
class _Engine:
    """Who does the parts of the pool."""

    engine: Literal["local", "slurm", "ray"] = "local"
    """`local`: processes of this machine; `slurm`: jobs through submitit; `ray`: a Ray cluster (RAY_ADDRESS), or this
    machine. Under torchrun each of its processes takes parts."""
    jobs: Annotated[int, Limits(1, 1024)] = 1
    """Processes, jobs or actors."""
    slurm: tuple[str, ...] = ()
    """Settings of the jobs as name=value: timeout_min=120 slurm_partition=gpu gpus_per_node=1."""

    def how(self) -> How:
        from steadyclip.anchors.engines import How

        if self.slurm and self.engine != "slurm":
            raise UsageError("--slurm is for --engine slurm: give it too, or leave out --slurm.")
        return How(self.engine, self.jobs, named_values(self.slurm))


@dataclasses.dataclass(frozen=True)
class AnchorsCaption:
    """Caption training images into a file. The same command again goes on, and captions what is new."""

    source: OmitArgPrefixes[DataOptions]
    images: OmitArgPrefixes[_FineTuneImages]
    out: Path
    """The captions file (.parquet)."""
    captioner: str = "Salesforce/blip-image-captioning-base"
    """Hub id or local directory of a BLIP, BLIP-2 or Florence-2; `manifest` takes the data's own captions; `template`
    writes class prompts, the control."""
    prompt: str | None = None
    """How captions begin, or Florence-2's task (<DETAILED_CAPTION>)."""
    beams: Annotated[int, Limits(1, 1000)] = 3
    """Of the search; 1 is greedy."""
    max_tokens: Annotated[int, Limits(1, 10_000)] = 40
    """Longest caption."""
    batch_size: BatchSize = 32
    """Images captioned at once."""
    workers: Workers = 4
    """Threads that decode images."""
    precision: Precision = "fp32"
    """Of the captioner's weights."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.anchors import caption_images, load_captioner

        images = self.images.of(self.source)
        captioner = load_captioner(
            self.captioner, prompt=self.prompt, beams=self.beams, max_tokens=self.max_tokens,
            device=best_device(self.device), precision=self.precision,
        )  # fmt: skip
        with progress_bar("captions") as progress:
            captions = caption_images(
                images, captioner, self.out, batch_size=self.batch_size, workers=self.workers, progress=progress,
                log=say,
            )  # fmt: skip
        say(
            f"captions: {self.out} ({len(captions)})", *(f"  {key}: {text}" for key, text in list(captions.items())[:3])
        )


@dataclasses.dataclass(frozen=True)
class AnchorsEmbed:
    """Compute the features of a pool of image-text pairs. The same command again goes on; started several times, the
    processes share the work."""

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")]
    """Tables (.parquet with images, .csv with paths; texts in `text` or `caption`), webdataset-style .tar shards, or
    folders of them; `lab-pool` holds drawings that no data set uses (steadyclip-lab)."""
    out: Path
    """Folder of the pool."""
    model: str = EMBEDDED
    """The model to be fine-tuned, as for `steadyclip train`."""
    text_column: str | None = None
    """Column of the texts, or key in a shard's .json."""
    batch_size: BatchSize = 256
    """Pairs in a forward pass."""
    workers: Workers = 4
    """Threads that decode images."""
    features: Literal["float32", "float16"] = "float32"
    """How features are stored: float16 takes half of the room, and cosines differ by up to 1e-4."""
    precision: Precision = "fp32"
    """Of the forward passes. `bf16` is several times as fast on a GPU; `retrieve` then computes queries in it, too."""
    allow_failed: Number = 0
    """Shards or parts that may be missing or damaged. The pool goes without them, but has the pairs before the place
    where a shard is damaged."""
    shared: OmitArgPrefixes[_Engine] = _Engine()
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.anchors import embed_pool
        from steadyclip.models import load

        if not self.sources:
            raise UsageError("name at least one source: steadyclip anchors embed SOURCE ... --out POOL")
        sources: list[str | Path] = [_pool_source(name) for name in self.sources]
        model = load(self.model, device=best_device(self.device))
        with progress_bar("pool") as progress:
            pool = embed_pool(
                model, sources, self.out, batch_size=self.batch_size, text_column=self.text_column,
                workers=self.workers, features=self.features, precision=self.precision,
                allow_failed=self.allow_failed, how=self.shared.how(), progress=progress, log=say,
            )  # fmt: skip
        say(f"pool: {self.out} ({len(pool)} pairs, hash {pool.hash}), embedded by {model.name}")


@dataclasses.dataclass(frozen=True)
class AnchorsAdopt:
    """Use the features that clip-retrieval has computed as a pool, where they lie, without embedding again."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Output of `clip-retrieval inference`: img_emb, text_emb, metadata."""
    out: Path
    """Folder of the pool; only a manifest is written there."""
    model: str = EMBEDDED
    """The model that made the features, and is to be fine-tuned."""
    images: Path | None = None
    """Folder in which the paths of the images begin; by default FOLDER."""
    unchecked: bool = False
    """Do not embed 16 pairs again to see that the features are the model's: for folders without images."""
    allow_failed: Number = 0
    """Parts that may be missing or damaged; the pool goes without them."""
    workers: Workers = 4
    """Threads that decode images."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.anchors import adopt_pool
        from steadyclip.models import load

        model = load(self.model, device=best_device(self.device))
        with progress_bar("pool") as progress:
            pool = adopt_pool(
                model, self.folder, self.out, images=self.images, unchecked=self.unchecked,
                allow_failed=self.allow_failed, workers=self.workers, progress=progress, log=say,
            )  # fmt: skip
        adopted = pool.manifest.adopted
        looked = "not compared with the model"
        if adopted and adopted.compared:
            looked = f"{adopted.compared} pairs embedded again, lowest cosine {adopted.lowest:.4f}"
        say(f"pool: {self.out} ({len(pool)} pairs, hash {pool.hash}), adopted from {self.folder}: {looked}")


@dataclasses.dataclass(frozen=True)
class AnchorsRetrieve:
    """Write the pairs of a pool that are nearest to the training images, or random ones, into an anchor file."""

    source: OmitArgPrefixes[DataOptions]
    images: OmitArgPrefixes[_FineTuneImages]
    pool: Path
    """Folder that `steadyclip anchors embed` or `adopt` wrote."""
    out: Path
    """The anchor file (.parquet)."""
    model: str = EMBEDDED
    """The model that the pool was embedded with."""
    query: Literal["image", "text", "both"] = "image"
    """Image against images, caption against texts, or the mean of both cosines."""
    captions: Path | None = None
    """Captions file for the queries `text` and `both`; by default the data's own captions."""
    k: Count = 1
    """Pairs for each image."""
    near_duplicate: Annotated[float, Limits(-1, 1)] | None = 0.95
    """Leave out pairs whose image has a larger cosine with the image; None leaves none out."""
    random_like: Path | None = None
    """The control: instead of searching, replace each pair of this anchor file by a random one of the pool."""
    distinct: Annotated[float, Limits(-1, 1)] | None = None
    """Leave out pairs whose image has a larger cosine with that of a better pair, across the whole pool: 0.95 for pools
    from the web."""
    spare: Count | None = None
    """Candidates beyond --k for --distinct; by default as many again, and at least 8."""
    search: Literal["exact", "faiss"] = "exact"
    """`exact` compares every pair; `faiss` (pip install faiss-cpu) searches an index held in memory."""
    shared: OmitArgPrefixes[_Engine] = _Engine()
    unit_rows: Count = 1_000_000
    """Pairs that are searched at a time, each with a result of its own."""
    pool_source: Path | None = None
    """Folder that the pool's source files have been moved to."""
    batch_size: BatchSize = 64
    """Images in a forward pass."""
    workers: Workers = 0
    """Processes that decode images."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.anchors import Captions, Pool, random_like, read_anchors, retrieve
        from steadyclip.models import load

        pool = Pool.open(self.pool)
        if self.random_like:
            like = read_anchors(self.random_like)
            anchors = random_like(like, pool, self.out, seed=self.images.seed, source=self.pool_source)
        else:
            images = self.images.of(self.source)
            captions = Captions.of(images, self.captions) if self.query != "image" else None
            with progress_bar("queries") as progress:
                anchors = retrieve(
                    load(self.model, device=best_device(self.device)), pool, images, self.out, query=self.query,
                    captions=captions, k=self.k, near_duplicate=self.near_duplicate, distinct=self.distinct,
                    spare=self.spare, search=self.search, how=self.shared.how(), unit_rows=self.unit_rows,
                    source=self.pool_source, batch_size=self.batch_size, workers=self.workers, progress=progress,
                    log=say,
                )  # fmt: skip
            without = len(images) - len(anchors.keys)
            if without:
                say(f"{without} of {len(images)} images have no pairs: unreadable, or near-duplicates only")
        out = shlex.quote(str(self.out))
        say(
            f"anchors: {self.out} ({len(anchors)} pairs, {len(anchors.distinct)} different, for "
            f"{len(anchors.keys)} images)",
            f"look at them: steadyclip anchors show {self.source.words} --anchors {out} --out anchors.html",
        )


@dataclasses.dataclass(frozen=True)
class AnchorsShow:
    """Write a page with training images, their captions and their retrieved pairs."""

    source: OmitArgPrefixes[DataOptions]
    images: OmitArgPrefixes[_FineTuneImages]
    out: Path = Path("anchors.html")
    """The page, self-contained."""
    captions: Path | None = None
    """Captions file; by default the data's own captions."""
    anchors: Path | None = None
    """Anchor file."""
    limit: Count = 60
    """Images to show, taken evenly over the classes."""

    def __call__(self) -> None:
        from steadyclip.anchors import Captions, read_anchors
        from steadyclip.report.anchors import write_sheet

        images = self.images.of(self.source)
        captions = Captions.of(images, self.captions)
        images.refuse_changed(captions.digests, captions.name)
        anchors = read_anchors(self.anchors) if self.anchors else None
        if anchors:
            images.refuse_changed(anchors.digests, str(anchors.path))
        say(f"page: {write_sheet(self.out, images, captions, anchors, limit=self.limit)}")


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Caption images, embed a pool of pairs or adopt one, retrieve from it, look at the result."""

    action: OmitSubcommandPrefixes[
        Annotated[AnchorsCaption, subcommand("caption")]
        | Annotated[AnchorsEmbed, subcommand("embed")]
        | Annotated[AnchorsAdopt, subcommand("adopt")]
        | Annotated[AnchorsRetrieve, subcommand("retrieve")]
        | Annotated[AnchorsShow, subcommand("show")]
    ]

    def __call__(self) -> None:
        self.action()


def _pool_source(name: str) -> str | Path:
    """``name`` as a path, or the table of that name which an installed distribution brings along."""
    table = load_extension(POOLS, name)
    if table is not None:
        return table()
    elsewhere = absent(POOLS, name)
    if elsewhere and not Path(name).exists():
        raise DataError(f"no pairs {name!r} here: {elsewhere}.")
    return name
