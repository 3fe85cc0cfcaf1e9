"""Structured pruning from one declarative plan: gates, masks, exact counting and real shrinking. Imports torch only."""

from .adapters import UNITS, plan_for
from .attach import attach, detach
from .budget import Accounting, Budget, Constraint, budget
from .gate import Gate, Gates
from .lagrangian import Lagrangian
from .plan import Cut, Kept, Plan, PlanError, Role, Shape, Slot, Work, shape_of
from .schedule import Growth, Schedule, scheduled_target
from .select import check_target
from .shrink import narrow, shrink
from .widen import widen

__all__ = [
    "UNITS",
    "Accounting",
    "Budget",
    "Constraint",
    "Cut",
    "Gate",
    "Gates",
    "Growth",
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
