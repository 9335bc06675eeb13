"""Judged data in, numbers that can be trusted out. A laptop without an engine is enough for all but the reranking itself.

data, trec                        reading judged data      fetch                      bringing them from elsewhere
run, results                      reranking them into a    measures, significance     what a ranking is worth
                                  result file              consistency                whether a table can be true at all
scorecard, compare                one result file, or two  report, charts, templates  the same as HTML pages
calibrate                         thresholds, and what     presets                    published protocols by name
                                  scores mean
"""

from whyrank.evaluation.presets import HOUSE

__all__ = ["HOUSE"]
