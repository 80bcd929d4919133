"""The model card of an export: what it is, where it comes from, how good it was, how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steadyclip.core.progress import spell
from steadyclip.deploy.classifier import Classifier
from steadyclip.evaluation.records import Record

if TYPE_CHECKING:
    from steadyclip.deploy.classifier import ExportInfo

_PIPELINE = """\
import json
from transformers import pipeline

about = json.load(open("classifier.json", encoding="utf-8"))
classify = pipeline("zero-shot-image-classification", model=".")
print(classify("photo.jpg", candidate_labels={names}, hypothesis_template=about["templates"][0]{lower}))"""
_ROWS = """\
import json
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

about, head = json.load(open("classifier.json", encoding="utf-8")), load_file("classifier.safetensors")
model, processor = AutoModel.from_pretrained("."), AutoImageProcessor.from_pretrained(".")
with torch.inference_mode():
    f = model.get_image_features(**processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt"))
    f = torch.nn.functional.normalize(getattr(f, "pooler_output", f), dim=-1)
    logits = head["scale"] * f @ head["weight"].T + head["bias"]
    probability, place = (logits / about["temperature"]).softmax(-1).max(-1)
print(about["classes"][place.item()], probability.item())"""
_OPEN_CLIP = """\
import json
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file

about, head = json.load(open("classifier.json", encoding="utf-8")), load_file("classifier.safetensors")
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
with torch.inference_mode():
    f = model.eval().encode_image(preprocess(Image.open("photo.jpg").convert("RGB"))[None], normalize=True)
    logits = head["scale"] * f @ head["weight"].T + head["bias"]
    probability, place = (logits / about["temperature"]).softmax(-1).max(-1)
print(about["classes"][place.item()], probability.item())"""
_STEADYCLIP = """\
import steadyclip as sc

print(sc.Predictor({source})("photo.jpg"))"""
_SHOWN = 20


def card_of(info: ExportInfo, about: Classifier, records: Sequence[Record]) -> str:
    """The README.md of an export, in Markdown."""
    sections = [
        _head(info), _what(info, about), _training(info), _scores(records), _sureness(about), _use(info, about),
        _checks(info),
    ]  # fmt: skip
    return "\n".join("\n".join(lines) for lines in sections if lines)


def _head(info: ExportInfo) -> list[str]:
    library = {"hf": "transformers", "open_clip": "open_clip"}.get(info.target, "onnx")
    base = [f"base_model: {json.dumps(info.model.name)}"] if "/" in info.model.name else []
    return [
        "---", "pipeline_tag: zero-shot-image-classification", f"library_name: {library}", *base, "tags: [steadyclip]",
        "---", "",
    ]  # fmt: skip


def _what(info: ExportInfo, about: Classifier) -> list[str]:
    data = f", fine-tuned on {info.training['name']} by {info.method.label}" if info.training else ""
    names = ", ".join(about.classes[:_SHOWN]) + (
        f" and {len(about.classes) - _SHOWN} more" if len(about.classes) > _SHOWN else ""
    )
    templates = ", ".join(f'"{template}"' for template in about.templates[:5])
    more = f" and {len(about.templates) - 5} more" if len(about.templates) > 5 else ""
    other = (
        "Other class names can be asked for, with less certainty: it was tuned on these."
        if about.names == "any"
        else "It knows these classes only: its rows were learned and are in `classifier.safetensors`."
    )
    return [
        f"# {info.model.name}{data}", "",
        f"A {about.family} model that names images among {len(about.classes)} classes: {names}.",
        f"{other} Prompts: {templates}{more}.", "",
    ]  # fmt: skip


def _training(info: ExportInfo) -> list[str]:
    found = info.training
    if not found:
        return ["Nothing was trained: these are the pretrained weights.", ""]
    shots = f"{found['shots']} per class" if found["shots"] else "all"
    classes = "" if found["subset"] == "all" else f"; the {found['subset']} half of the classes"
    return [
        "## Training", "",
        f"- Pretrained model: {info.model.name} (weights {info.model.weights_hash})",
        f"- Method: {info.method.label}",
        f"- Data: {found['name']}, {found['train_images']} training images ({shots}){classes}, {found['val_images']} "
        f"validation images, content {found['content']}",
        f"- Cost: {found['steps']} steps in {spell(found['seconds'])} on {found['device']}; seed {found['seed']}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in info.versions.items())}", "",
    ]  # fmt: skip


def _scores(records: Sequence[Record]) -> list[str]:
    lines = ["## Scores", ""]
    scored = [record for record in records if record.metrics]
    if not scored:
        return [*lines, "It was not scored on test images before it was exported (`steadyclip evaluate`).", ""]
    lines += ["| test images | classes | images | top-1 | 95 % interval |", "| --- | --- | ---: | ---: | --- |"]
    for record in scored:
        assert record.metrics is not None
        low, high = (f"{100 * end:.1f}" for end in record.metrics.interval95)
        alpha = "" if record.wise_alpha is None else f", weights averaged (alpha {record.wise_alpha:g})"
        lines.append(
            f"| {record.data.name} | {len(record.data.classes)} ({record.data.subset}){alpha} | {record.data.images} | "
            f"{100 * record.metrics.top1:.1f} | {low} to {high} |"
        )
    return [*lines, "", "The interval is a bootstrap over test images; it says nothing of other training seeds.", ""]


def _sureness(about: Classifier) -> list[str]:
    lines = ["## How sure it is", ""]
    if about.calibration is None:
        return [*lines, "Nothing was calibrated: probabilities are a plain softmax, and there is no threshold.", ""]
    return [
        *lines, *(f"- {line}" for line in about.calibration.lines()),
        "- The threshold says \"unsure\" where classes are hard to tell apart. It does not recognize strangers: most "
        "images of something else get a name as well.", "",
    ]  # fmt: skip


def _use(info: ExportInfo, about: Classifier) -> list[str]:
    lines = ["## Use", "", "In this folder:", ""]
    blocks: list[str] = []
    if "pipeline" in info.checks:
        lower = about.family == "siglip2"
        names = '[name.lower() for name in about["classes"]]' if lower else 'about["classes"]'
        blocks.append(_PIPELINE.format(names=names, lower=".lower()" if lower else ""))
        lines = [*lines[:-2], "In this folder (the pipeline knows neither the names nor the prompt, so give both):", ""]
    if info.target == "hf":
        blocks.append(_ROWS)
    if info.target == "web":
        lines += [
            "`index.html` runs the model in the browser, by onnxruntime-web (MIT license; in this folder). It needs a "
            "web server, such as `python -m http.server --bind 127.0.0.1 8001`.", "",
        ]  # fmt: skip
    if info.target == "open_clip":
        blocks.append(_OPEN_CLIP)
    blocks.append(_STEADYCLIP.format(source='".", backend="onnx"' if info.target in ("onnx", "web") else '"."'))
    for block in blocks:
        lines += ["```python", block, "```", ""]
    if info.target == "hf":
        lines += [
            "Do not load it with `pipeline(\"image-classification\")`: transformers would put a head with random "
            "weights on it.", "",
        ]  # fmt: skip
    if info.target == "open_clip":
        lines += [
            "open_clip rounds the center crop to even pixels and lays transparency on black, the model was used with "
            "other roundings and white: features of such images differ (`checks` in export.json).", "",
        ]  # fmt: skip
    return lines


def _checks(info: ExportInfo) -> list[str]:
    lines = ["## Read back", "", "The answers of this export were compared with those of the trained model:", ""]
    for reader, figures in info.checks.items():
        shown = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in figures.items())
        lines.append(f"- {reader}: {shown}")
    return [*lines, ""]


def _figure(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
