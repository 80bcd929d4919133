from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steadyclip.core.errors import DataError
from steadyclip.data import ImageSet
from steadyclip.models import DualEncoder
from steadyclip.models import features as module
from steadyclip.models.features import cut_texts, image_features
from steadyclip.models.testing import installed_families, tiny


def test_features_equal_the_bare_loop(model: DualEncoder, pictures: ImageSet, pixels_and_labels) -> None:
    pixels, labels = pixels_and_labels
    with torch.no_grad():
        expected = model.encode_image(pixels)
    found = image_features(model, pictures, batch_size=7)
    torch.testing.assert_close(found.features_ND, expected, atol=1e-6, rtol=0)
    assert torch.equal(found.labels_N, labels)
    assert found.keys == pictures.keys
    assert not found.skipped


def test_features_can_be_learned_from(model: DualEncoder, pictures: ImageSet) -> None:
    """They leave inference mode: a probe's gradient steps must not fail on them."""
    features_ND = image_features(model, pictures).features_ND
    weight = torch.zeros(features_ND.shape[1], requires_grad=True)
    (features_ND @ weight).sum().backward()
    assert weight.grad is not None


def test_workers_change_nothing(model: DualEncoder, pictures: ImageSet) -> None:
    alone, two = (image_features(model, pictures, batch_size=5, workers=workers) for workers in (0, 2))
    assert torch.equal(alone.features_ND, two.features_ND)


def test_each_module_gets_its_mode_back(pictures: ImageSet) -> None:
    model = tiny("clip")
    model.train()
    model.network.eval()
    before = [m.training for m in model.modules()]
    seen = []
    image_features(model, pictures, progress=lambda done, total: seen.append((done, total, model.training)))
    assert [m.training for m in model.modules()] == before
    assert seen == [(24, 24, False)]


def test_unreadable_images_are_skipped(model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "images" / pictures.keys[4]).write_bytes(b"")
    found = image_features(model, pictures, batch_size=4)
    assert [key for key, _ in found.skipped] == [pictures.keys[4]]
    assert found.keys == pictures.keys[:4] + pictures.keys[5:]
    assert len(found.labels_N) == 23


def test_too_many_unreadable_images(model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
    for key in pictures.keys:
        (tmp_path / "images" / key).write_bytes(b"")
    with pytest.raises(DataError, match="noise"):
        image_features(model, pictures)


def test_no_images(model: DualEncoder, pictures: ImageSet) -> None:
    with pytest.raises(DataError, match="no image"):
        image_features(model, pictures.subset([]))


class TestCache:
    @pytest.fixture(autouse=True)
    def count_encodings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encodings = 0
        encoded = module._encoded

        def counted(*args, **options):
            self.encodings += 1
            return encoded(*args, **options)

        monkeypatch.setattr(module, "_encoded", counted)

    def test_second_time_is_read(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        first = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        second = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        assert self.encodings == 1
        assert (first.cached, second.cached) == (False, True)
        assert torch.equal(first.features_ND, second.features_ND)
        assert torch.equal(first.labels_N, second.labels_N)
        assert (first.keys, first.skipped) == (second.keys, second.skipped)

    def test_skipped_images_are_kept(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        (tmp_path / "images" / pictures.keys[4]).write_bytes(b"")
        for _ in range(2):
            found = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
            assert [key for key, _ in found.skipped] == [pictures.keys[4]]
        assert self.encodings == 1

    @pytest.mark.parametrize("place", [b'"checksum"', b'"F32"', b""])  # b"": in a tensor
    @pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
    def test_a_damaged_file_is_written_again(
        self, model: DualEncoder, pictures: ImageSet, tmp_path: Path, place: bytes, damage: str
    ) -> None:
        first = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        (file,) = (tmp_path / "cache").iterdir()
        content = bytearray(file.read_bytes())
        content[content.index(place) + 1 if place else -10] ^= 1
        if damage == "remove":
            file.unlink()
        else:
            file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
        again = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        assert self.encodings == 2
        assert torch.equal(first.features_ND, again.features_ND)
        assert image_features(model, pictures, cache=tmp_path / "cache", frozen=True).cached

    def test_other_pixels_under_the_same_names(
        self, model: DualEncoder, pictures: ImageSet, make_pictures: Callable[..., ImageSet], tmp_path: Path
    ) -> None:
        others = make_pictures(tmp_path / "others", seed=1)
        assert others.hash == pictures.hash
        image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        assert not image_features(model, others, cache=tmp_path / "cache", frozen=True).cached

    def test_one_image_overwritten_under_its_name(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        before = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        (tmp_path / "images" / pictures.keys[7]).write_bytes((tmp_path / "images" / pictures.keys[8]).read_bytes())
        after = image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        assert not after.cached
        changed = (before.features_ND != after.features_ND).any(dim=1).nonzero().flatten().tolist()
        assert changed == [7]

    def test_other_weights(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        image_features(model, pictures, cache=tmp_path / "cache", frozen=True)
        assert not image_features(tiny("clip", seed=1), pictures, cache=tmp_path / "cache", frozen=True).cached

    def test_another_precision(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        first = image_features(model, pictures, cache=cache, frozen=True)
        half = image_features(model, pictures, cache=cache, frozen=True, precision="bf16")
        assert not half.cached
        assert half.features_ND.dtype == torch.float32
        assert not torch.equal(half.features_ND, first.features_ND)
        torch.testing.assert_close(half.features_ND, first.features_ND, atol=0.02, rtol=0)
        assert image_features(model, pictures, cache=cache, frozen=True, precision="bf16").cached

    def test_only_frozen_features(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="frozen"):
            image_features(model, pictures, cache=tmp_path / "cache")


class TestShards:
    @pytest.fixture(autouse=True)
    def small_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_SHARD", 10)

    def test_a_set_in_shards_is_the_set_at_once(
        self, model: DualEncoder, pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "images" / pictures.keys[13]).write_bytes(b"")
        seen: list[tuple[int, int]] = []
        found = image_features(
            model, pictures, batch_size=5, cache=tmp_path, frozen=True, progress=lambda *at: seen.append(at)
        )
        monkeypatch.setattr(module, "_SHARD", 100)
        whole = image_features(model, pictures, batch_size=5)
        assert torch.equal(found.features_ND, whole.features_ND)
        assert torch.equal(found.labels_N, whole.labels_N)
        assert (found.keys, found.skipped) == (whole.keys, whole.skipped)
        assert seen == [(5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]
        assert [file.suffix for file in tmp_path.glob("features-*")] == [".safetensors"]

    def test_a_killed_call_goes_on_behind_the_last_shard(
        self, model: DualEncoder, pictures: ImageSet, tmp_path: Path
    ) -> None:
        def stop(done: int, total: int) -> None:
            if done > 15:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            image_features(model, pictures, batch_size=5, cache=tmp_path, frozen=True, progress=stop)
        assert len([*tmp_path.glob("features-*.part")]) == 1
        seen: list[int] = []
        found = image_features(
            model, pictures, batch_size=5, cache=tmp_path, frozen=True, progress=lambda done, _: seen.append(done)
        )
        assert seen == [15, 20, 24]
        assert torch.equal(found.features_ND, image_features(model, pictures, batch_size=5).features_ND)

    def test_a_damaged_shard_is_computed_again(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        whole = image_features(model, pictures, batch_size=5, cache=tmp_path, frozen=True)
        (file,) = tmp_path.glob("features-*.safetensors")
        file.rename(file.with_name(f"{file.stem}-0.part"))
        bad = file.with_name(f"{file.stem}-10.part")
        bad.write_bytes(b"nothing")
        # the first shard now holds all 24 rows, which no shard of 10 images can
        again = image_features(model, pictures, batch_size=5, cache=tmp_path, frozen=True)
        assert torch.equal(again.features_ND, whole.features_ND)

    def test_too_many_unreadable_images_end_it_early(
        self, model: DualEncoder, pictures: ImageSet, tmp_path: Path
    ) -> None:
        for key in pictures.keys[:15]:
            (tmp_path / "images" / key).write_bytes(b"")
        seen: list[int] = []
        with pytest.raises(DataError, match="noise: 15 of 24 images cannot be read"):
            image_features(model, pictures, batch_size=5, progress=lambda done, _: seen.append(done))
        assert seen == [20]


class TestPixelsInMemory:
    @pytest.fixture(autouse=True)
    def count_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module._kept.clear()
        self.reads = 0
        read = ImageSet.read

        def counted(*args, **options):
            self.reads += 1
            return read(*args, **options)

        monkeypatch.setattr(ImageSet, "read", counted)

    def test_images_are_decoded_once(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        (tmp_path / "images" / pictures.keys[4]).write_bytes(b"")
        first, second = (image_features(model, pictures, batch_size=5) for _ in range(2))
        assert self.reads == 24
        assert torch.equal(first.features_ND, second.features_ND)
        assert (first.keys, first.skipped) == (second.keys, second.skipped)
        assert len(first.skipped) == 1

    def test_other_bytes_are_other_images(self, model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
        before = image_features(model, pictures)
        (tmp_path / "images" / pictures.keys[0]).write_bytes((tmp_path / "images" / pictures.keys[1]).read_bytes())
        after = image_features(model, pictures)
        assert self.reads == 48
        assert torch.equal(after.features_ND[0], before.features_ND[1])

    def test_no_more_is_kept_than_there_is_room(
        self, model: DualEncoder, pictures: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_ROOM", 4 * 3 * 32 * 32 * 20)
        image_features(model, pictures)
        assert not module._kept  # more than a quarter
        for first in range(5):
            image_features(model, pictures.subset(range(first, first + 19)))
        assert len(module._kept) == 4
        image_features(model, pictures.subset(range(4, 23)))
        assert self.reads == 24 + 5 * 19


def test_frozen_features_of_a_trained_model(pictures: ImageSet) -> None:
    model = tiny("clip")
    before = image_features(model, pictures).features_ND
    model.keep_frozen_copy()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05)
    assert not torch.allclose(image_features(model, pictures).features_ND, before, atol=1e-3)
    assert torch.equal(image_features(model, pictures, frozen=True).features_ND, before)


@pytest.mark.parametrize("family", installed_families())
def test_texts_of_which_the_end_is_not_read_are_counted(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TEXTS", 2)
    model, long = tiny(family), "a very long text " * 30
    assert cut_texts(model, ["a cat", "a dog", "a"]) == ""
    said = cut_texts(model, ["a cat", long, "a", f"{long} with another end", "b"])
    assert said.startswith("2 of 5 texts are cut at the 32 tokens that the model reads, such as 'a very long")
