"""Logs comparisons and searches to MLflow. The only importer of mlflow.

store     opens MLflow's store, and says how to mend one that is broken
contents  what is logged of a comparison: tags, params, summary, description, dataset
tracker   writes it while the runs train, and never stops them
models    LoggedModels of the checkpoints, and the registry
served    the pyfunc in each of them, which needs NumPy only
commands  logs a comparison that is on disk, registers its best networks, serves MLflow's page
"""

from __future__ import annotations

from compare.tracking.tracker import Tracker as Tracker
