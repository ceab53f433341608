"""Results for people: curves and tables."""

from tospike.report.charts import draw_curve as draw_curve
from tospike.report.html import write_report as write_report
from tospike.report.tables import curve_table as curve_table
