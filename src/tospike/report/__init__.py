"""Results for people: curves and tables."""

from tospike.report.plots import draw_curve as draw_curve
from tospike.report.tables import curve_table as curve_table
