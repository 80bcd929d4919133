"""A method from pieces: orthogonal maps of the feed-forward layers, low-rank updates of the attention, captions.

    python examples/compose.py

It is checked, trained on the base classes of `lab-things`, scored on base and new, read back from its run folder, and
merged into plain weights. Needs steadyclip-lab; takes under a minute on two cores.
"""

import tempfile
from pathlib import Path

import steadyclip as sc
from steadyclip.adapters import LowRank, Orthogonal
from steadyclip.anchors import CaptionsOfImages
from steadyclip.methods import Recipe, compose
from steadyclip.objectives import Consistency, CrossEntropy, InfoNCE, Text, TextsOfStream
from steadyclip.testing import check_method
from steadyclip.training import TrainConfig, load_run


def main() -> None:
    method = compose(
        "orthogonal + attention + captions",
        adapters=(Orthogonal(), LowRank(layers=("q", "v"))),
        objective=CrossEntropy()
        + 1.5 * Consistency(cross=True)
        + 0.2 * InfoNCE(Text(TextsOfStream(stream="captions"))),
        streams={"captions": CaptionsOfImages()},
        recipe=Recipe(learning_rate=3e-4, epochs=1, batch_size=32),
    )
    print(f"{len(check_method(method, ['clip']))} checks passed; it is spelled {method.knobs()['objective']}")
    data = sc.load_data("lab-things")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        config = TrainConfig(out=out, smallest_crop=0.6, precision="bf16", progress=False)
        sc.fit(sc.load("icons-small"), method, data.task(shots=8, subset="base"), config=config)
        model, method, run = load_run(out)
        for subset in ("base", "new"):
            images = data.test_set(subset)
            record = sc.evaluate(model, method, images, subset=subset, run=run, precision="bf16")
            method_only = sc.get_method("zero-shot")
            frozen = sc.evaluate(sc.load("icons-small"), method_only, images, subset=subset, precision="bf16")
            assert record.metrics is not None
            assert frozen.metrics is not None
            print(f"{subset}: {record.metrics.top1:.1%}, zero-shot {frozen.metrics.top1:.1%}")
        method.merge(model)
        model.detach_all()
        model.save(Path(folder) / "merged")
        print(f"merged: {sorted(path.name for path in (Path(folder) / 'merged').iterdir())}")


if __name__ == "__main__":
    main()
