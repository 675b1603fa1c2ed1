"""What each party of a topology has, sees, and can tell from it."""

from jsplit.privacy.views.all_views import Views
from jsplit.privacy.views.building import views
from jsplit.privacy.views.records import Gives, Seen, Together
from jsplit.privacy.views.view import ATTACKS, Possible, View

__all__ = ["ATTACKS", "Gives", "Possible", "Seen", "Together", "View", "Views", "views"]
