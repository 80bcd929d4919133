"""From a name to a model: an installed one, a directory, a hub id, or an open_clip name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from steadyclip.core.errors import ModelError, nearest
from steadyclip.core.extensions import MODELS, absent, distribution, extensions, load_extension
from steadyclip.core.files import expanded
from steadyclip.models import huggingface, openclip
from steadyclip.models.encoder import DualEncoder


def load(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> DualEncoder:
    """A model with its tokenizer, image transform and logit scale, ready to encode.

    Args:
        name_or_path: "icons-small" (of steadyclip-lab), a local checkpoint directory, a hub id such as
            "openai/clip-vit-base-patch16", or "open_clip:MODEL[/PRETRAINED]" (extra ``open-clip``).
        device: where the weights go; they are float32.

    Raises:
        ModelError: there is no such model, or its checkpoint cannot be used.
    """
    name = str(name_or_path)
    if name.startswith("open_clip:"):
        model = openclip.read(name)
    else:
        folder = checkpoint_folder(name)
        if (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file():
            model = openclip.read(name, folder)
        else:
            model = huggingface.read(name, folder)
    for weights, tensor in model.network.named_parameters():
        if not tensor.isfinite().all():
            raise ModelError(f"{name}: the weights hold values that are not numbers ({weights}): copy them again.")
    return model.to(device)


def find_model(name: str) -> None:
    """See that there is such a model, and download it if need be; its weights are not read.

    Raises:
        ModelError: there is none. Of names of open_clip only ``load`` finds out.
    """
    if not name.startswith("open_clip:"):
        checkpoint_folder(name)


def checkpoint_folder(name: str) -> Path:
    """The folder of an installed model, a directory, or a hub id, downloaded if need be.

    Raises:
        ModelError: there is no such checkpoint, or the hub cannot be reached.
    """
    installed: Path | Callable[[], Path] | None = load_extension(MODELS, name)
    if installed is not None:
        folder = installed if isinstance(installed, Path) else installed()
        if not (folder / "config.json").is_file():
            source = distribution(extensions(MODELS)[name])
            raise ModelError(f"the weights of {name!r} are not in this installation: reinstall {source}.")
        return folder
    path = expanded(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelError(
            f"{name}: give the directory of the checkpoint, not a file; only model.safetensors is read from it, since "
            "a pickle can run code."
        )
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return _download(name)
    if elsewhere := absent(MODELS, name):
        raise ModelError(f"no model {name!r} here: {elsewhere}, or name another model.")
    raise ModelError(
        f"no model {name!r}: not a directory, not installed, not a hub id (owner/name)."
        f"{nearest(name, extensions(MODELS))}"
    )


def _download(hub_id: str) -> Path:
    """The newest snapshot of a hub model, or the cached one without a network: safetensors, JSON and tokenizer only."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    reason = revision = None
    weights = "model*.safetensors"
    try:  # one small question with a time limit: a dead network must not cost minutes
        info = HfApi().model_info(hub_id, timeout=10)
        revision = info.sha
        if "config.json" not in {file.rfilename for file in info.siblings or ()}:
            weights = openclip.WEIGHTS  # made for open_clip only; most repositories hold the same weights in both forms
    except GatedRepoError:
        raise ModelError(f"{hub_id!r}: the hub asks for a login and consent first (hf auth login).") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{hub_id!r} is neither a directory here nor a model on the hub.") from None
    except Exception as error:  # offline mode, no route, timeouts: of many kinds, in the hub's client and in httpx
        reason = error
    try:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision,
                local_files_only=revision is None,
                allow_patterns=["*.json", weights, "*.txt", "*.model"],
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:
        what = type(reason or error).__name__
        raise ModelError(
            f"{hub_id!r} is not a directory here, not in the cache, and the hub cannot be reached ({what}): "
            "check the path or the network. For a machine without one, copy the folder that `hf download "
            f"{hub_id} --local-dir FOLDER` makes elsewhere, and name FOLDER."
        ) from error
