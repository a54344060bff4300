"""The inner loop that a strategy has trained, as an adaptation."""

from __future__ import annotations

from dataclasses import replace

from mtl.data.episodes import EpisodeRows, collate_episode
from mtl.episodic.gradient_based import BIAS, WEIGHT, GradientBased
from mtl.meta.closed_form import Linear
from mtl.transfer.adaptation import Adaptation, LinearPredictor, Predictor, need_support
from mtl.transfer.space import Space, evaluating


class InnerLoop(Adaptation):
    """Descend from the learned start, as in training.

    Args:
        strategy: The strategy; prepared for the model whose encoder the target is read with.
        names: Whether the classes' names are read with the support.
    """

    def __init__(self, strategy: GradientBased, names: bool) -> None:
        self.strategy, self.names = strategy, names

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        need_support(space, episode)
        reader = space.reader_above(self.strategy.trunk.depth)
        with evaluating(space.encoder):
            names = space.target.names if self.names else None
            alone = replace(episode, query=episode.support)  # the queries are not looked at, and may be many
            ready = collate_episode(alone, space.pool, space.kind, names).to(space.device)
            *_, theta = self.strategy.unroll(reader, ready, "first")
        own = {name: theta[name].detach() for name in self.strategy.adapted}
        head = Linear(self.strategy.scale * theta[WEIGHT].detach(), theta[BIAS].detach())
        return LinearPredictor(space, head, own, reader.trunk.depth)
