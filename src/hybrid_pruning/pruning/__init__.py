"""Structured pruning from one declarative plan: gates, masks, exact counting and real shrinking. Imports torch only."""

from hybrid_pruning.pruning.attach import attach, detach
from hybrid_pruning.pruning.budget import Accounting, Budget, Constraint, budget
from hybrid_pruning.pruning.gate import Gate, Gates, ImportanceOptimizer
from hybrid_pruning.pruning.plan import UNITS, Cut, Kept, Plan, PlanError, Role, Shape, Slot, Work, plan_for, shape_of
from hybrid_pruning.pruning.schedule import Growth, Lagrangian, Schedule, scheduled_target
from hybrid_pruning.pruning.select import check_target
from hybrid_pruning.pruning.shrink import narrow, shrink, widen

__all__ = [
    "UNITS",
    "Accounting",
    "Budget",
    "Constraint",
    "Cut",
    "Gate",
    "Gates",
    "Growth",
    "ImportanceOptimizer",
    "Kept",
    "Lagrangian",
    "Plan",
    "PlanError",
    "Role",
    "Schedule",
    "Shape",
    "Slot",
    "Work",
    "attach",
    "budget",
    "check_target",
    "detach",
    "narrow",
    "plan_for",
    "scheduled_target",
    "shape_of",
    "shrink",
    "widen",
]
