"""Image sources: files; `test_decoded` has those that are kept."""

import cv2
import pytest
from image_sets import HEIGHT, NOISE, WIDTH, encoded, index_of
from PIL import Image

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.decode import REDUCTIONS
from hpc_yolo.data.source import ImageFiles, RecentImages


@pytest.mark.parametrize(("augment", "method"), [(True, cv2.INTER_LINEAR), (False, cv2.INTER_AREA)])
def test_files_are_read_with_their_longer_side_at_the_size(train_index, augment, method):
    pixels = ImageFiles(train_index, 60, augment=augment).read(3)
    whole = cv2.imread(train_index.paths[3])
    assert (pixels == cv2.resize(whole, (60, 40), interpolation=method)).all()


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize(("imgsz", "reduction"), [(48, 2), (40, 2), (24, 4), (23, 4), (12, 8), (5, 8)])
def test_jpeg_of_twice_the_size_is_reduced_by_its_decoder(train_index, augment, imgsz, reduction):
    pixels = ImageFiles(train_index, imgsz, augment=augment).read(3)
    reduced = cv2.imread(train_index.paths[3], REDUCTIONS[reduction])
    assert reduced.shape[1] == 96 // reduction
    assert (pixels == cv2.resize(reduced, (imgsz, imgsz * 2 // 3))).all()


@pytest.mark.parametrize(("augment", "method"), [(True, cv2.INTER_LINEAR), (False, cv2.INTER_AREA)])
def test_png_is_never_reduced(tmp_path, augment, method):
    cv2.imwrite(str(tmp_path / "x.png"), NOISE)
    index = index_of([str(tmp_path / "x.png")], [NOISE.shape[:2]], [[]])
    pixels = ImageFiles(index, 20, augment=augment).read(0)
    assert (pixels == cv2.resize(NOISE, (20, 13), interpolation=method)).all()


def test_reduced_jpeg_of_a_camera_is_upright(tmp_path):
    """EXIF orientation 6: the file's rows are the image's columns."""
    turned = Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "x.jpg", exif=exif)
    height, width = NOISE.shape[:2]
    index = index_of([str(tmp_path / "x.jpg")], [(width, height)], [[]])
    assert ImageFiles(index, width // 2, augment=True).read(0).shape == (width // 2, height // 2, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(("shape", "imgsz"), [((33, 99), 64), ((HEIGHT, WIDTH + 1), 64), ((WIDTH, HEIGHT), 20)])
def test_file_that_was_exchanged_for_one_of_another_size_is_an_error(tmp_path, suffix, shape, imgsz):
    """Its labels would be those of another image."""
    cv2.imwrite(str(tmp_path / f"x{suffix}"), NOISE)
    index = index_of([str(tmp_path / f"x{suffix}")], [shape], [[]])
    message = rf"x{suffix}: \d+ x \d+ pixels.*, but {shape[1]} x {shape[0]} when the dataset was read"
    with pytest.raises(DataError, match=message):
        ImageFiles(index, imgsz, augment=True).read(0)


@pytest.mark.parametrize("fraction", [0.4, 0.98])
@pytest.mark.parametrize("imgsz", [60, 30, 15])
def test_jpeg_that_was_cut_off_is_an_error(tmp_path, imgsz, fraction):
    """OpenCV decodes it, with grey instead of the rest."""
    content = encoded(".jpg")
    (tmp_path / "x.jpg").write_bytes(content[: int(len(content) * fraction)])
    index = index_of([str(tmp_path / "x.jpg")], [(HEIGHT, WIDTH)], [[]])
    with pytest.raises(DataError, match=r"x\.jpg: the JPEG is cut off"):
        ImageFiles(index, imgsz, augment=True).read(0)


@pytest.mark.parametrize("imgsz", [60, 30, 15])
def test_jpeg_that_lacks_its_end_mark_alone_is_used(tmp_path, imgsz):
    (tmp_path / "x.jpg").write_bytes(encoded(".jpg"))
    index = index_of([str(tmp_path / "x.jpg")], [(HEIGHT, WIDTH)], [[]])
    files = ImageFiles(index, imgsz, augment=True)
    whole = files.read(0)
    (tmp_path / "x.jpg").write_bytes(encoded(".jpg")[:-2])
    assert (files.read(0) == whole).all()
    assert (files.read(0) == whole).all()


def test_missing_file_is_named(tmp_path):
    index = index_of([str(tmp_path / "gone.jpg")], [(8, 8)], [[]])
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read"):
        ImageFiles(index, 64, augment=True).read(0)


def test_recent_images_are_read_again_only_after_they_were_displaced(train_index):
    read: list[int] = []

    class Files(ImageFiles):
        def read(self, index):
            read.append(index)
            return super().read(index)

    files = Files(train_index, 64, augment=True)
    recent = RecentImages(files, 2)
    for image in (0, 1, 0, 2, 0, 1, 1):
        assert (recent.read(image) == files.read(image)).all()
        read.pop()
    assert read == [0, 1, 2, 1]
