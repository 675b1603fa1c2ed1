"""What each party sees, how much that gives away, what protects it, and what is guaranteed."""

from jsplit.guarding import Evidence, Guard, chain_rule, coherence
from jsplit.privacy import attacks, defences, guarantees, measures, reporting, viewing
from jsplit.privacy.attacks import *  # noqa: F403
from jsplit.privacy.defences import *  # noqa: F403
from jsplit.privacy.guarantees import *  # noqa: F403
from jsplit.privacy.guarded import guard
from jsplit.privacy.measures import *  # noqa: F403
from jsplit.privacy.reporting import *  # noqa: F403
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing import *  # noqa: F403
from jsplit.privacy.watched_training import watch
from jsplit.privacy.watching import traffic_of

__all__ = ["Adversary", "Budget", "Evidence", "Guard", "Score", "Traffic"]
__all__ += ["chain_rule", "coherence", "guard", "traffic_of", "watch"]
__all__ += attacks.__all__
__all__ += defences.__all__
__all__ += guarantees.__all__
__all__ += measures.__all__
__all__ += reporting.__all__
__all__ += viewing.__all__


def __dir__() -> list[str]:
    return [*__all__]
