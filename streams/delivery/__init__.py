"""From a record to what follows from it, without losing either: ordered acks, delivery, dead letters."""

from streams.delivery.acks import OffsetGap, OrderedAcks
from streams.delivery.dead_letters import dead_letter
from streams.delivery.producer import DeliveryFailed, Producer, TooLarge
from streams.delivery.recent import Recent
from streams.delivery.runner import Delivery

__all__ = ["Delivery", "DeliveryFailed", "OffsetGap", "OrderedAcks", "Producer", "Recent", "TooLarge", "dead_letter"]
