"""Evaluation on judged data. Everything but the reranking itself runs on a laptop without an engine.

data, trec                        read judged data         fetch                      downloads them
run, results                      rerank them into a       measures, significance     how good a ranking is
                                  result file              consistency                whether a printed table can be true
scorecard, compare                one result file, or two  report, charts, templates  the same as HTML pages
calibrate                         thresholds and           presets                    published protocols by name
                                  calibrated scores
"""

from whyrank.evaluation.presets import HOUSE

__all__ = ["HOUSE"]
