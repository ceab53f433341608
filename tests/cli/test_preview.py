import numpy as np
import pytest

from tospike.cli import main

Image = pytest.importorskip("PIL.Image")


def test_a_sheet_is_written(tmp_path, capsys):
    out = tmp_path / "sheets" / "digits.png"
    assert main(["preview", "digits", str(out), "--samples", "6"]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    with Image.open(out) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.width > 4 * 160


def test_a_sheet_is_not_replaced_unless_it_is_forced(tmp_path, capsys):
    out = tmp_path / "digits.png"
    out.write_text("mine")
    assert main(["preview", "digits", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["preview", "digits", str(out), "--force"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_training_samples_are_augmented_by_the_seed(tmp_path):
    def drawn(name, *options):
        assert main(["preview", "digits", str(tmp_path / name), "--part", "train", *options]) == 0
        with Image.open(tmp_path / name) as picture:
            return np.array(picture)

    plain, first, again, other = (
        drawn(f"{number}.png", *options)
        for number, options in enumerate([[], ["--augment"], ["--augment"], ["--augment", "--seed", "1"]])
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, plain)
    assert not np.array_equal(first, other)


def test_a_folder_of_images_can_be_looked_at(tmp_path):
    pytest.importorskip("torchvision")
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / "mine" / "a.png")
    assert main(["preview", str(tmp_path / "mine"), str(tmp_path / "out.png"), "--data_options.size", "32"]) == 0
    with Image.open(tmp_path / "out.png") as picture:
        assert (np.array(picture) == (200, 100, 50)).all(-1).sum() == 160 * 160


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "sheet.jpg"], "*.png"),
        (["digit", "sheet.png"], "Did you mean 'digits'"),
        (["digits", "sheet.png", "--samples", "0"], "samples"),
        (["kinetics", "sheet.png", "--root", "."], "train/*/*.mp4"),
    ],
)
def test_errors_are_messages(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
