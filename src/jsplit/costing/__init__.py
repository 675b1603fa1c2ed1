"""What training costs each party, from shapes alone: a step, a run, and where to cut."""

from jsplit.costing.baseline_runs import fedavg, large_batch_sgd
from jsplit.costing.count_step import cost
from jsplit.costing.cut_plan import Choice, CutPlan
from jsplit.costing.machines import Device, Network
from jsplit.costing.party_cost import PartyCost, Work
from jsplit.costing.party_summary import PartySummary, Summary, SummaryRow, summary
from jsplit.costing.planning import plan
from jsplit.costing.run_cost import ClientRun, Exchange, RunCost, table
from jsplit.costing.split_runs import parallel, splitfed, take_turns
from jsplit.costing.step_cost import Cost

__all__ = [
    "Choice",
    "ClientRun",
    "Cost",
    "CutPlan",
    "Device",
    "Exchange",
    "Network",
    "PartyCost",
    "PartySummary",
    "RunCost",
    "Summary",
    "SummaryRow",
    "Work",
    "cost",
    "fedavg",
    "large_batch_sgd",
    "parallel",
    "plan",
    "splitfed",
    "summary",
    "table",
    "take_turns",
]
