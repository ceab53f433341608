"""Sets that are folders of image files: ImageNet, one's own classes, and photographs without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset

from tospike.data.base import Data
from tospike.data.sources import source
from tospike.errors import DataError, OptionError, missing_extra

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".JPG", ".JPEG", ".PNG")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preparation:
    """How an image file becomes the input of a network.

    Attributes:
        size: Side of the square that the network sees, in pixels.
        resize: Shorter side to which a test image is scaled before its centre is cut out; ``size * 8 / 7`` when None.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].
        interpolation: How pixels are interpolated when an image is scaled.

    Raises:
        OptionError: A size does not fit, or the interpolation is unknown.
    """

    size: int = 224
    resize: int | None = None
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(
                "Unknown interpolation of images", got=repr(self.interpolation),
                expected="one of " + ", ".join(INTERPOLATIONS), remedy="Pass the one that the network was trained on.",
            )  # fmt: skip
        if self.size < 1 or self.shorter_side < self.size:
            raise OptionError(
                "The image sizes do not fit", got=f"size={self.size}, resize={self.resize}",
                expected="1 <= size <= resize", remedy="Leave resize out, or pass a larger one.",
            )  # fmt: skip
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise OptionError(
                "The normalisation of images does not fit", got=f"mean={self.mean}, std={self.std}",
                expected="three means and three positive deviations", remedy="Leave them out for those of ImageNet.",
            )  # fmt: skip

    @property
    def shorter_side(self) -> int:
        """Shorter side of a test image before its centre is cut out, in pixels."""
        return round(self.size * 8 / 7) if self.resize is None else self.resize

    def plain(self) -> Callable[[Any], Tensor]:
        """Return the transform of test images."""
        vision = _torchvision().transforms
        return self._to_tensor(vision.Resize(self.shorter_side, self._mode()), vision.CenterCrop(self.size))

    def augmented(self) -> Callable[[Any], Tensor]:
        """Return the transform of training images: a random window and mirror image, changed a little in colour."""
        vision = _torchvision().transforms
        window = vision.RandomResizedCrop(self.size, interpolation=self._mode())
        return self._to_tensor(window, vision.RandomHorizontalFlip(), vision.ColorJitter(0.2, 0.2, 0.2, 0.1))

    def _mode(self) -> Any:
        return _torchvision().transforms.InterpolationMode(self.interpolation)

    def _to_tensor(self, *steps: Any) -> Callable[[Any], Tensor]:
        vision = _torchvision().transforms
        done: Callable[[Any], Tensor] = vision.Compose(
            [*steps, vision.ToTensor(), vision.Normalize(tuple(self.mean), tuple(self.std))]
        )
        return done


@dataclass(frozen=True, eq=False)
class LooseImages(Dataset[Tensor]):
    """Image files without labels; a sample is the image alone, ``[3, H, W]``."""

    files: tuple[Path, ...]
    transform: Callable[[Any], Tensor]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Read one image."""
        return self.transform(open_image(self.files[index]))


@source(
    "imagenet",
    layouts=(("train/n*/*.JPEG", "val/n*/*.JPEG"),),
    folders=(".", "imagenet", "ILSVRC/Data/CLS-LOC"),
    origin="Take ILSVRC2012 from https://www.image-net.org/download.php, unpack it, and sort the validation images "
    "into one folder per class.",
)
def read_imagenet(
    folder: Path,
    *,
    augment: bool = True,
    size: int = 224,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    interpolation: str = "bilinear",
) -> Data:
    """Read ImageNet; images are ``[3, 224, 224]``, normalised; classes are named by their WordNet numbers.

    Args:
        folder: Folder with ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``.
        augment: Whether training images are augmented; see `Preparation.augmented`.
        size: Side of the square that the network sees, in pixels.
        resize: Shorter side to which a test image is scaled before its centre is cut out; ``size * 8 / 7`` when None.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].
        interpolation: How pixels are interpolated when an image is scaled.

    Raises:
        DataError: Training and validation part differ in classes, or a file is no image (when it is read).
        MissingExtraError: torchvision is not installed.

    Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", arXiv 1409.0575. Augmentation
        as in Bu et al. 2022, arXiv 2303.04347; differs in nothing.
    """
    preparation = Preparation(size, resize, mean, std, interpolation)
    return _classes("imagenet", folder / "train", folder / "val", preparation, augment)


@source(
    "folder",
    layouts=(("train/*/*", "test/*/*"), ("train/*/*", "val/*/*"), *((f"*{extension}",) for extension in EXTENSIONS)),
    places=(),
    origin="Arrange your images as train/<class>/* and test/<class>/* (or val/<class>/*), or lay images without labels "
    "side by side.",
)
def read_images(
    folder: Path,
    *,
    augment: bool = True,
    size: int = 224,
    resize: int | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    interpolation: str = "bilinear",
) -> Data:
    """Read a folder of your own images; they become ``[3, size, size]``, normalised.

    Images that lie side by side have no labels: both parts are then all of them, a batch is the images alone, and
    there are no classes. That is enough to calibrate, and to compare a network with its conversion.

    Args:
        folder: Folder with ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``, or with images.
        augment: Whether training images are augmented; see `Preparation.augmented`.
        size: Side of the square that the network sees, in pixels.
        resize: Shorter side to which a test image is scaled before its centre is cut out; ``size * 8 / 7`` when None.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].
        interpolation: How pixels are interpolated when an image is scaled.

    Raises:
        DataError: The parts differ in classes, a class has no image, or a file is no image (when it is read).
        MissingExtraError: torchvision is not installed.
    """
    preparation = Preparation(size, resize, mean, std, interpolation)
    held_out = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and held_out is not None:
        return _classes("folder", folder / "train", held_out, preparation, augment)
    files = tuple(sorted(path for path in folder.iterdir() if path.suffix in EXTENSIONS))
    plain = LooseImages(files, preparation.plain())
    train = LooseImages(files, preparation.augmented()) if augment else plain
    return Data("folder", train, plain, (), (3, size, size), plain, tuple(mean), tuple(std))


def _classes(name: str, train: Path, test: Path, preparation: Preparation, augment: bool) -> Data:
    images = _torchvision().datasets.ImageFolder
    plain_transform = preparation.plain()
    try:
        with Console(stderr=True).status(f"Listing the images of {train.parent}"):
            plain, held_out = (images(part, plain_transform, loader=open_image) for part in (train, test))
    except FileNotFoundError as error:
        raise DataError(
            "A class of images is empty", where=str(train.parent), got=str(error), expected="an image in every class",
            remedy="Remove the folder, or put images into it.",
        ) from error  # fmt: skip
    require_same_classes(train, plain.classes, test, held_out.classes)
    augmented = images(train, preparation.augmented(), loader=open_image) if augment else plain
    return Data(
        name, augmented, held_out, tuple(plain.classes), (3, preparation.size, preparation.size), plain,
        tuple(preparation.mean), tuple(preparation.std),
    )  # fmt: skip


def require_same_classes(train: Path, of_train: Sequence[str], test: Path, of_test: Sequence[str]) -> None:
    """Raise unless both parts of a set have the same classes.

    Raises:
        DataError: A class is missing in one of them.
    """
    odd = sorted(set(of_train) ^ set(of_test))
    if odd:
        raise DataError(
            "The training and the test part differ in their classes",
            where=f"{train} and {test}",
            got=f"only in one of them: {', '.join(odd[:8])}{' …' if len(odd) > 8 else ''}",
            expected="the same folders in both",
            remedy="Sort the samples of both parts into one folder per class, named alike.",
        )


def open_image(path: str | Path) -> Any:
    """Read an image file as three colours.

    Raises:
        DataError: The file is not an image, or is cut off.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("Pillow", "vision", "reading image files") from error
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            "An image cannot be read", where=str(path), got=str(error), expected="an image file",
            remedy="Fetch the file again, or remove it.",
        ) from error  # fmt: skip


def _torchvision() -> Any:
    try:
        import torchvision  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("torchvision", "vision", "reading image folders") from error
    return torchvision
