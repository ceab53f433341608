"""Pictures of samples and of what networks say of them."""

from tospike.pictures.drawing import draw_boxes as draw_boxes
from tospike.pictures.drawing import draw_mask as draw_mask
from tospike.pictures.drawing import to_image as to_image
from tospike.pictures.palette import colours as colours
from tospike.pictures.sheets import fitted as fitted
from tospike.pictures.sheets import sheet as sheet
