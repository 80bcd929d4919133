from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from steadyclip.core.errors import DataError
from steadyclip.data import load_data


@pytest.fixture
def table(folder, tmp_path: Path):
    """``table(text)`` writes labels.csv beside photos/00.png ... 19.png."""
    folder({"photos": 20}, "set")

    def write(text: str, name: str = "labels.csv") -> Path:
        path = tmp_path / "set" / name
        path.write_bytes(text.encode("utf-8-sig"))
        return path

    return write


def rows(header: str, line: str, count: int = 20) -> str:
    return "\n".join([header, *(line.format(i=i, label="cat" if i % 2 else "sea_lion") for i in range(count))]) + "\n"


def refused(path: Path, match: str, **options) -> str:
    with pytest.raises(DataError, match=match) as caught:
        load_data(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv_without_splits(table):
    data = load_data(table(rows("path,label", "photos/{i:02}.png,{label}")))
    assert data.name == "labels"
    assert data.classes == ("cat", "sea lion")
    assert [len(images) for images in data.splits.values()] == [10, 4, 6]
    assert data.splits["test"].read(0).size == (6, 4)


def test_csv_with_everything(table):
    text = "label ;path; split;domain;caption\n" + "".join(
        f"{'cat' if i % 2 else 'dog'};photos\\{i:02}.png;{('train', 'Validation', 'test')[i % 3]};"
        f'{"sketch" if i < 10 else ""};"a; {i}"\n'
        for i in range(20)
    )
    data = load_data(table(text))
    train = data.splits["train"]
    assert train.keys[1] == "photos/03.png"
    assert train.captions[1] == "a; 3"
    assert (train.domains[0], train.domains[-1]) == ("sketch", None)
    assert data.domains == ("sketch",)
    assert [len(images) for images in data.splits.values()] == [7, 7, 6]


def test_images_of_a_group_are_kept_together_and_the_number_of_groups_is_told(table):
    split = ("train", "test")
    lines = [f"photos/{i:02}.png,{'cat' if i % 4 < 2 else 'dog'},{split[i % 2]},{i // 8 or ''}" for i in range(20)]
    data = load_data(table("path,label,split,group\n" + "\n".join(lines) + "\n"))
    test = data.splits["test"]
    assert test.groups == (None,) * 4 + ("1",) * 4 + ("2",) * 2
    assert test.group_numbers(test.keys) == [0, 1, 2, 3, 4, 4, 4, 4, 5, 5]
    assert test.group_numbers(test.keys[5:]) == [0, 0, 0, 1, 1]
    assert test.subset([9, 0]).groups == ("2", None)
    assert data.notes[0] == "column group: intervals draw the images of each of its 2 groups together"
    assert data.notes[-1] == "2 groups, for instance '1', have images to train on and to test on"
    alone = load_data(table(rows("path,label", "photos/{i:02}.png,{label}"))).splits["test"]
    assert (alone.groups, alone.group_numbers(alone.keys)) == ((None,) * 6, [])


def test_absolute_paths_become_relative(table, tmp_path: Path):
    path = table(rows("path,label", f"{tmp_path}/set/photos/{{i:02}}.png,{{label}}"))
    assert load_data(path).splits["train"].keys[0].startswith("photos/")


def test_missing_file_names_file_and_row(table):
    text = rows("path,label", "photos/{i:02}.png,{label}").replace("photos/05.png", "photos/no.png")
    assert "labels.csv row 7: no such file: photos/no.png" in refused(table(text), "row 7")
    assert "19 more of 20" in refused(table(rows("path,label", "{i}.png,{label}")), "row 2")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,label\nphotos/00.png,cat\n", "no column 'path'; it has file, label.*image_column"),
        (
            "path,labels\nphotos/00.png,cat\n",
            "no column 'label'; it has path, labels. Did you mean 'labels'",
        ),
        ("", "no column 'path'; it has none"),
        ("path,label\n", "names no images"),
        ("path,label\nphotos/00.png,cat\nphotos/01.png, \n", "row 3: the label is empty"),
        ("path,label\nphotos/00.png,cat\n ,dog\n", "row 3: the path is empty"),
        ("path,label\nphotos/00.png,cat\n\nphotos/01.png,a,b\n", "row 4 has 3 fields, the header 2"),
        (
            "path,label\nphotos/00.png,Cat\nphotos/01.png,cat \n",
            "'cat' has the same name as 'Cat'.*row 2",
        ),
        ("path,label\nphotos/00.png,cat\nphotos/01.png,cat\n", "only one class"),
        (
            "path,label\nphotos/00.png,cat\n./photos/00.png,dog\n",
            "row 3: .*already named at labels.csv row 2",
        ),
        (
            "path,label,split\nphotos/00.png,cat,trian\nphotos/01.png,dog,test\n",
            "row 2: unknown split 'trian'.*train",
        ),
        ("path,label,split\nphotos/00.png,cat,train\nphotos/01.png,dog,\n", "row 3: no split is given here"),
    ],
)
def test_broken_tables(table, text: str, match: str):
    refused(table(text), match)


def test_csv_that_is_not_text(table):
    path = table("")
    path.write_bytes(b"path,label\n\xff\xfe\x00,cat\n")
    refused(path, "cannot be read as UTF-8 CSV")


def write_parquet(file: Path, about: dict | None = None, **columns) -> Path:
    columns = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    whole = pa.table(columns)
    if about:
        whole = whole.replace_schema_metadata({"steadyclip": json.dumps(about)})
    parquet.write_table(whole, file)
    return file


@pytest.mark.parametrize("form", ["binary", "large_binary", "struct"])
def test_parquet_with_pictures(tmp_path: Path, picture, form: str):
    pictures = [picture(str(i)) for i in range(12)]
    image = {
        "binary": lambda: pa.array(pictures, pa.binary()),
        "large_binary": lambda: pa.array(pictures, pa.large_binary()),
        "struct": lambda: pa.array([{"bytes": data, "path": None} for data in pictures]),
    }[form]()
    path = write_parquet(tmp_path / "set.parquet", image=image, label=["cat", "dog"] * 6)
    data = load_data(path)
    train = data.splits["train"]
    assert set(train.keys) <= {f"row-{i:07}" for i in range(1, 13)}
    again = pickle.loads(pickle.dumps(train))  # as a spawned worker gets it
    for i, key in enumerate(train.keys):
        assert again.store.read(key) == pictures[int(key[4:]) - 1]
        assert again.read(i).tobytes() == train.read(i).tobytes()
    assert len(pickle.dumps(again.store)) < 1000  # the images stay in their file


def test_parquet_with_keys_and_its_own_metadata(tmp_path: Path, picture):
    path = write_parquet(
        tmp_path / "set.parquet",
        about={"name": "drawings", "templates": ["an icon of a {}."], "classes": ["dog", "cat"]},
        path=[f"pack/bold/{i}" for i in range(6)],
        image=[picture(str(i)) for i in range(6)],
        label=["cat", "dog"] * 3,
        split=["train"] * 4 + ["test"] * 2,
        domain=["lines"] * 5 + ["emoji"],
    )
    data = load_data(path)
    assert (data.name, data.classes, data.templates) == ("drawings", ("dog", "cat"), ("an icon of a {}.",))
    assert data.test_set().keys == ("pack/bold/4",)
    assert data.test_set(domain="emoji").keys == ("pack/bold/5",)
    assert data.task().train.read(1).tobytes() == load_data(path).splits["train"].read(1).tobytes()


def test_parquet_with_paths(table, tmp_path: Path):
    path = table("", "set.parquet")
    write_parquet(path, path=[f"photos/{i:02}.png" for i in range(10)], label=["cat", "dog"] * 5)
    assert load_data(path).splits["train"].read(0).size == (6, 4)
    write_parquet(path, path=["photos/00.png", "photos/99.png"], label=["cat", "dog"])
    refused(path, "set.parquet row 2: no such file")


def test_broken_parquet(tmp_path: Path, picture):
    path = tmp_path / "set.parquet"
    path.write_bytes(b"PAR0")
    refused(path, "cannot be read as parquet")
    refused(write_parquet(path, image=[picture("0")], name=["cat"]), "no column 'label'; it has image, name")
    refused(
        write_parquet(path, image=[picture("0")] * 2, path=["a", None], label=["cat", "dog"]),
        "row 2: the path is empty",
    )
    write_parquet(path, about={"classes": ["cat"]}, path=["a", "b"], image=[picture("0")] * 2, label=["cat", "dog"])
    refused(path, "row 2: class 'dog' is not in the list of classes")


def write(path: Path, labels: pa.Array, image: pa.Array | None = None, about: dict | None = None) -> Path:
    images = pa.array([b"bytes"] * len(labels)) if image is None else image
    table = pa.table({"image": images, "label": labels})
    parquet.write_table(table.replace_schema_metadata({k: json.dumps(v) for k, v in (about or {}).items()}), path)
    return path


def test_class_names_of_hugging_face(tmp_path: Path):
    """As `datasets` writes it: labels are numbers, keys are the names that the images had as files."""
    names = ["zebra", "ant", "yak", "bee"]
    about = {"huggingface": {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}}
    images = pa.array([{"bytes": b"?", "path": f"{i}.png"} for i in range(12)])
    labels = pa.array([i % 3 for i in range(12)])
    data = load_data(write(tmp_path / "a.parquet", labels, images, about))
    assert data.classes == ("zebra", "ant", "yak")
    assert "1 of the 4 class names in the metadata have no image" in data.notes
    train = data.splits["train"]
    assert set(train.keys) <= {f"{i}.png" for i in range(12)}
    assert all(int(key[:-4]) % 3 == label for key, label in zip(train.keys, train.labels, strict=True))
    assert train.store.read(train.keys[0]) == b"?"
    with pytest.raises(DataError, match=r"a.parquet row 1: label is -1, and the metadata name the classes 0 to 3"):
        load_data(write(tmp_path / "a.parquet", pa.array([-1] * 12), images, about))
    same = pa.array([{"bytes": b"?", "path": "one.png"}] * 12)
    assert load_data(write(tmp_path / "b.parquet", labels, same, about)).splits["train"].keys[0].startswith("row-")


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([["cat"], ["dog"]], None, "label is a list"),
        ([{"id": 0}, {"id": 1}], None, "label is a structure"),
        ([False, True], None, "label is true or false"),
        ([0, 86_400_000], pa.timestamp("ms"), "label is of the type datetime"),
        ([0.5, 1.5], None, "label is a number with a fraction"),
        ([b"\xff", b"\xfe"], None, "label holds bytes that are no UTF-8 text"),
    ],
)
def test_labels_that_are_no_words(tmp_path: Path, values: list, kind: pa.DataType | None, said: str):
    with pytest.raises(DataError, match=rf"^a.parquet row 1: {said}"):
        load_data(write(tmp_path / "a.parquet", pa.array(values * 4, kind)))


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["cat", "dog"] * 4).dictionary_encode(), pa.array(["cat", "dog"] * 4, pa.large_string()),
        pa.array([b"cat", b"dog"] * 4),
    ],
)  # fmt: skip
def test_labels_that_are_words(tmp_path: Path, labels: pa.Array):
    assert load_data(write(tmp_path / "a.parquet", labels)).classes == ("cat", "dog")


def test_whole_numbers_are_names_without_a_fraction(tmp_path: Path):
    assert load_data(write(tmp_path / "a.parquet", pa.array([1.0, 2.0] * 4))).classes == ("1", "2")


def test_of_several_captions_the_first_is_taken_and_said(tmp_path: Path):
    captions = [["a cat", "a pet"], ["a dog"], [], None] * 3
    columns = {"image": [b"?"] * 12, "label": ["cat", "dog"] * 6, "caption": captions}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = load_data(tmp_path / "a.parquet")
    assert set().union(*(images.captions for images in data.splits.values())) == {"a cat", "a dog", None}
    assert "3 images have several captions: the first of each is taken" in data.notes


def test_a_column_that_is_there_twice(table):
    with pytest.raises(DataError, match="has two columns 'label'"):
        load_data(table("path,label,label\nphotos/00.png,a,\n"))


def test_metadata_of_another_program(tmp_path: Path):
    with pytest.raises(DataError, match="its metadata 'steadyclip' are no JSON object"):
        load_data(write(tmp_path / "a.parquet", pa.array(["cat", "dog"] * 4), about={"steadyclip": "mine"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('path,label\nphotos/00.png,"cat\nphotos/01.png,dog\n', "line 3: unexpected end of data"),
        ('path,label,note\nphotos/00.png,cat,"24\nphotos/01.png,dog,24"\n', "row 2: note goes on over lines"),
        ('path,label\nphotos/00.png,"cat"s\n', "line 2: ',' expected after '\"'"),
        ("path,label,Split\nphotos/00.png,cat,train\n", "has a column 'Split', which is not read: call it 'split'"),
    ],
)
def test_quotes_and_columns_that_would_be_read_otherwise(table, text: str, said: str):
    with pytest.raises(DataError) as caught:
        load_data(table(text))
    assert said in str(caught.value)


def test_a_caption_may_go_on_over_lines(table):
    rows = "".join(f'photos/{i:02}.png,{"cat" if i < 2 else "dog"},"a pet,\nfrom the left"\n' for i in range(4))
    data = load_data(table(f"path,label,caption\n{rows}"))
    assert data.splits["train"].captions == ("a pet,\nfrom the left",) * 2


def test_two_classes_of_one_name_in_the_metadata(tmp_path: Path):
    about = {"huggingface": {"info": {"features": {"label": {"names": ["crane", "owl", "crane"]}}}}}
    with pytest.raises(DataError, match="the metadata have two classes 'crane'"):
        load_data(write(tmp_path / "a.parquet", pa.array([0, 1, 2] * 4), about=about))


def test_numbers_as_paths_beside_images(tmp_path: Path, picture):
    columns = {"path": [1.0, 2.0, 3.0, 4.0], "image": [picture(str(i)) for i in range(4)], "label": ["cat", "dog"] * 2}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    train = load_data(tmp_path / "a.parquet").splits["train"]
    assert all(train.store.read(key) == picture(str(int(key) - 1)) for key in train.keys)


@pytest.mark.parametrize("about", [{"templates": 3}, {"templates": [3]}, {"classes": "catdog"}, {"name": ["x"]}])
def test_metadata_of_ours_of_another_shape(tmp_path: Path, about: dict):
    with pytest.raises(DataError, match=r"a.parquet: its metadata 'steadyclip': Expected"):
        load_data(write(tmp_path / "a.parquet", pa.array(["cat", "dog"] * 4), about={"steadyclip": about}))
