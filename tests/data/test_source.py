"""Image sources: files; `test_decoded` has those that are kept."""

import cv2
import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.source import ImageFiles


@pytest.mark.parametrize(("augment", "method"), [(True, cv2.INTER_LINEAR), (False, cv2.INTER_AREA)])
def test_files_are_read_with_their_longer_side_at_the_size(train_index, augment, method):
    pixels = ImageFiles(train_index.paths, 48, augment=augment).read(3)
    whole = cv2.imread(train_index.paths[3])
    assert (pixels == cv2.resize(whole, (48, 32), interpolation=method)).all()


def test_missing_file_is_named(train_index, tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read"):
        ImageFiles([str(tmp_path / "gone.jpg")], 64, augment=True).read(0)
