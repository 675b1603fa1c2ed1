"""What each party of a topology has, sees, and can tell from it."""

from jsplit.privacy.viewing.all_views import Views
from jsplit.privacy.viewing.building import views
from jsplit.privacy.viewing.records import Gives, Seen, Together
from jsplit.privacy.viewing.view import ATTACKS, Possible, View

__all__ = ["ATTACKS", "Gives", "Possible", "Seen", "Together", "View", "Views", "views"]
