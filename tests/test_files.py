import pytest

from tospike.errors import OptionError
from tospike.files import replacing


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    try:
        with replacing(path) as written:
            written.write_text("half")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize("below", ["file/out.txt", "file/deeper/out.txt"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, below):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(OptionError, match=r"cannot be written[\s\S]*out\.txt[\s\S]*Choose another folder"),
        replacing(tmp_path / below),
    ):
        pass
