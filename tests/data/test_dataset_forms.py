"""Forms of dataset YAML and image lists that people have, and what reading one must never do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_files import label_path
from hpc_yolo.data.image_files import find_images
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES
from hpc_yolo.data.synth import CLASSES, write_shapes_dataset

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "yolov5_golden.json").read_text())
SAMPLE = Path(__file__).parents[2] / "configs" / "data" / "shapes.yaml"


@pytest.fixture
def write(tmp_path):
    """A dataset YAML beside one empty directory named images."""
    (tmp_path / "images").mkdir()

    def write_yaml(text: str) -> Path:
        path = tmp_path / "d.yaml"
        path.write_text(text)
        return path

    return write_yaml


@pytest.mark.parametrize(
    "text",
    [
        "train: !!python/object/apply:os.mkdir [{directory}/made]\nval: images\nnames: [a]\n",
        "train: images\nval: nowhere\nnames: [a]\ndownload: mkdir {directory}/made\n",
        "train: images\nval: nowhere\nnames: [a]\ndownload: |\n  import os\n  os.mkdir('{directory}/made')\n",
    ],
    ids=["tag", "bash", "python"],
)
def test_reading_a_dataset_runs_nothing_that_is_written_in_it(write, tmp_path, text):
    """Dataset files are passed around; the original executes what their download key says."""
    with pytest.raises(DataError):
        load_dataset(write(text.replace("{directory}", str(tmp_path))))
    assert not (tmp_path / "made").exists()


def test_a_download_does_not_stand_in_the_way_of_a_dataset_that_is_there(write):
    path = write("train: images\nval: images\nnames: [a]\nnc: 80\ndownload: https://example.org/set.zip\n")
    assert load_dataset(path).num_classes == 1, "names count, as published; nc is ignored"


def test_eighty_numbered_names_come_in_the_order_of_their_numbers(write):
    names = GOLDEN["coco80_names"]
    numbered = "".join(f"  {number}: {name}\n" for number, name in reversed(list(enumerate(names))))
    dataset = load_dataset(write(f"train: images\nval: images\ntest:\nnames:\n{numbered}"))
    assert list(dataset.names) == names
    assert dataset.test == ()


def test_a_login_node_reads_a_dataset_without_torch_and_opencv(write):
    """Together they take seconds to import, and preflight runs before every submit."""
    path = write("train: images\nval: images\nnames: [a]\n")
    program = (
        "import sys; from pathlib import Path; from hpc_yolo.data.dataset import load_dataset\n"
        "load_dataset(Path(sys.argv[1])); print(sorted({'torch', 'cv2', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sample_is_the_set_that_is_drawn(tmp_path, monkeypatch):
    """configs/data/shapes.yaml and what `data synth` writes say the same in two places."""
    drawn = load_dataset(write_shapes_dataset(tmp_path / "datasets" / "shapes", num_train=1, num_val=1))
    monkeypatch.chdir(tmp_path)
    sample = load_dataset(SAMPLE)
    assert sample.names == drawn.names == CLASSES
    for split in ("train", "val"):
        assert find_images(sample.split(split)).paths == find_images(drawn.split(split)).paths


def test_directories_and_lists_may_be_mixed_and_a_image_counts_once(tmp_path):
    for name in ("a/images/1.jpg", "a/images/deep/2.JPEG", "b/images/3.Png", "b/images/notes.txt", "b/images/4.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = tmp_path / "list.txt"
    listed.write_text(f"./a/images/1.jpg\r\n{tmp_path}/b/images/3.Png\r\n  \r\n")
    found = find_images((tmp_path / "a", listed, tmp_path / "b")).paths
    assert [path.name for path in found] == ["1.jpg", "2.JPEG", "3.Png"]


@pytest.mark.parametrize("suffix", sorted(DATASET_SUFFIXES))
def test_every_kind_of_image_is_found_in_either_case(tmp_path, suffix):
    for name in (f"small{suffix}", f"LARGE{suffix.upper()}"):
        (tmp_path / name).touch()
    assert len(find_images((tmp_path,)).paths) == 2


def test_the_order_of_images_does_not_depend_on_the_file_system(tmp_path):
    """Epoch orders are permutations of this order, and nodes may list a directory differently."""
    for name in ("10.jpg", "9.jpg", "a.jpg", "B.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images((tmp_path,)).paths] == ["10.jpg", "9.jpg", "B.jpg", "a.jpg"]


def test_a_image_given_as_a_list_is_refused(tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="is not a list of images"):
        find_images((tmp_path / "one.jpg",))


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("images/a.b.jpg", "labels/a.b.txt"),
        ("/d/train/images/a.png", "/d/train/labels/a.txt"),
        ("/d/images2/a.png", "/d/images2/a.txt"),
        ("/d/images/images/a.png", "/d/images/labels/a.txt"),
        ("/d/a.png", "/d/a.txt"),
    ],
)
def test_labels_are_looked_for_beside_images(image, label):
    assert label_path(Path(image)) == Path(label)
