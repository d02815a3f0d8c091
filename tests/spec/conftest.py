"""A small valid spec to which tests add lines, and the mistakes found in it as text."""

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.load import Override, check_spec, load_spec

SMALL = "name: small\nmodel: yolov5n\ndata: shapes.yaml\n"


class SpecFile:
    """A spec file that is read with `--set` options."""

    def __init__(self, path):
        self.path = path

    def write(self, text):
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self

    def add(self, added):
        return self.write(SMALL + added)

    def load(self, *assignments):
        return load_spec(self.path, self.overrides(assignments))

    def problems(self, *assignments):
        """Return each mistake in the order of the file, as printed."""
        return [str(problem) for problem in check_spec(self.path, self.overrides(assignments))[1]]

    def only_problem(self, *assignments):
        found = self.problems(*assignments)
        assert len(found) == 1, found
        with pytest.raises(SpecError):
            self.load(*assignments)
        return found[0]

    @staticmethod
    def overrides(assignments):
        pairs = [text.split("=", 1) for text in assignments]
        return [Override(path, value, origin=f"--set {path}={value}") for path, value in pairs]


@pytest.fixture
def spec_file(tmp_path):
    return SpecFile(tmp_path / "spec.yaml").write(SMALL)
