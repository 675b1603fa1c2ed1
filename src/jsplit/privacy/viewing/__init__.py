"""What each party of a topology has, sees, and can tell from it."""

from jsplit.privacy.viewing.all_views import Views
from jsplit.privacy.viewing.building import views
from jsplit.privacy.viewing.records import Gives, Seen, Together
from jsplit.privacy.viewing.view import Possible, View

__all__ = ["Gives", "Possible", "Seen", "Together", "View", "Views", "views"]
