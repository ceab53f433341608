"""Data sets that the field reports on, read from the disk in the layout they are published in."""

from tospike.data.base import Data as Data
from tospike.data.cifar import read_cifar10 as read_cifar10
from tospike.data.cifar import read_cifar100 as read_cifar100
from tospike.data.coco import read_coco_boxes as read_coco_boxes
from tospike.data.coco import read_coco_masks as read_coco_masks
from tospike.data.digits import read_digits as read_digits
from tospike.data.fashion_mnist import read_fashion_mnist as read_fashion_mnist
from tospike.data.folders import Preparation as Preparation
from tospike.data.folders import read_imagenet as read_imagenet
from tospike.data.folders import read_images as read_images
from tospike.data.kinetics import read_kinetics as read_kinetics
from tospike.data.memory import MemoryImages as MemoryImages
from tospike.data.preview import preview as preview
from tospike.data.sources import available as available
from tospike.data.sources import find as find
from tospike.data.sources import is_available as is_available
from tospike.data.sources import load as load
from tospike.data.sources import source as source
from tospike.data.transforms import AutoAugment as AutoAugment
from tospike.data.transforms import Cutout as Cutout
from tospike.data.transforms import RandomFlip as RandomFlip
from tospike.data.transforms import RandomShift as RandomShift
from tospike.data.voc import read_voc as read_voc
