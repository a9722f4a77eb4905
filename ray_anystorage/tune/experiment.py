"""An experiment of Ray Tune with a name: begun where the plan says, and continued by whoever runs it again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ray import tune

from ray_anystorage.cluster.nodes import alive_nodes
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.credentials.redact import shown
from ray_anystorage.environment import Tier
from ray_anystorage.errors import ExperimentMissingError, RequestError
from ray_anystorage.policy import Request
from ray_anystorage.runs import find_run
from ray_anystorage.tune.arguments import check_tuner_arguments, not_taken
from ray_anystorage.tune.experiment_home import carried_home
from ray_anystorage.tune.hooks import OTHER_THAN_IT_BEGAN, TUNER_STATE
from ray_anystorage.tune.results import has_state, own_files, read_grid
from ray_anystorage.tune.run_config import build_tune_run_config

logger = logging.getLogger("ray.tune.anystorage")

Resume = Literal["auto", "never", "must"]


@dataclass(frozen=True, slots=True)
class Placing:
    """What was said of an experiment's storage, and of its ``ray.tune.RunConfig``."""

    request: Request
    roots: Mapping[Tier, str | None]
    credentials: Credentials | None
    preflight: bool
    ray_arguments: Mapping[str, Any]

    def run_config(self, *, announces: bool = True) -> tune.RunConfig:
        """The config, with the storage looked at now; raises as :func:`ray_anystorage.tune_run_config`."""
        return build_tune_run_config(
            self.request,
            credentials=self.credentials,
            nodes=alive_nodes(),
            roots=self.roots,
            preflight=self.preflight,
            announces=announces,
            **self.ray_arguments,
        )


class TuneExperiment:
    """A trainable, callable as before, with the experiment that it is tuned in.

    Parameters
    ----------
    trainable
        A function, or a class derived from ``ray.tune.Trainable``.
    placing
        Where the experiment goes; it has the trainable's name unless another was said.
    """

    def __init__(self, trainable: Callable[..., Any], placing: Placing) -> None:
        name = placing.request.name or getattr(trainable, "__name__", None)
        if name is None:
            raise RequestError(f"{shown(trainable)} has no name: say one, @anystorage.tune_experiment(name)")
        functools.update_wrapper(self, trainable, updated=())
        self.trainable = trainable
        self._placing = replace(placing, request=replace(placing.request, name=name))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the trainable does when it is called."""
        return self.trainable(*arguments, **named)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        """A class that derives from a decorated one derives from the class."""
        return (self.trainable,)

    def __repr__(self) -> str:
        return f"<TuneExperiment {self.name!r} of {getattr(self.trainable, '__qualname__', self.trainable)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Elsewhere it is the trainable alone: where the storage is, and with what credentials, is the driver's."""
        return _alone, (self.trainable,)

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self._placing.request.name)

    def fit(
        self,
        param_space: Mapping[str, Any] | None = None,
        tune_config: tune.TuneConfig | None = None,
        *,
        resume: Resume = "auto",
        **tuner_arguments: Any,
    ) -> tune.ResultGrid:
        """Run the experiment to its end; one that was interrupted goes on, from wherever it is run again.

        Parameters
        ----------
        param_space, tune_config
            As ``ray.tune.Tuner`` takes them. Where the experiment goes on, Tune keeps to the ``tune_config``, and to
            all that was said of its ``RunConfig``, that it began with.
        resume
            ``"auto"`` continues what there is, trials that failed included, and begins where there is nothing.
            ``"must"`` refuses to begin, ``"never"`` to continue: trials of the same name are then left beside.
        **tuner_arguments
            Everything else that ``Tuner`` takes, but for the trainable and the ``run_config``, which are here already.

        Raises
        ------
        ExperimentMissingError
            ``resume="must"``, and there is nothing to continue.
        RequestError, PlanError, CredentialsError, StorageError
            As :func:`ray_anystorage.tune_run_config`.
        """
        return self.tuner(param_space, tune_config, resume=resume, **tuner_arguments).fit()

    def tuner(
        self,
        param_space: Mapping[str, Any] | None = None,
        tune_config: tune.TuneConfig | None = None,
        *,
        resume: Resume = "auto",
        **tuner_arguments: Any,
    ) -> tune.Tuner:
        """The ``ray.tune.Tuner`` that :meth:`fit` fits; raises the same."""
        if resume not in get_args(Resume):
            raise RequestError(f"resume={shown(resume)}: expected one of {', '.join(map(repr, get_args(Resume)))}")
        check_tuner_arguments(param_space, tune_config, tuner_arguments)
        config = self._placing.run_config(announces=resume == "never")
        space = _plain(param_space)
        begun = _is_begun(config.storage_filesystem)
        if begun and resume != "never":
            restored = self._restored(config, space, {})
            for difference in not_taken(restored, tune_config):
                logger.warning("experiment %r goes on as it began: %s", self.name, difference)
            return restored
        if resume == "must":
            raise ExperimentMissingError(
                f'resume="must": there is no experiment {self.name!r} to continue at {_uri(config)}\n  what to do: '
                'say resume="auto", which begins one, or the name, tier or artifact_storage that it was begun with'
            )
        return tune.Tuner(
            self.trainable, param_space=space, tune_config=tune_config, run_config=config, **tuner_arguments
        )

    def restore(self, param_space: Mapping[str, Any] | None = None, **restore_arguments: Any) -> tune.Tuner:
        """``Tuner.restore`` of the experiment, with all that it needs to find its storage.

        Parameters
        ----------
        **restore_arguments
            ``resume_unfinished``, ``resume_errored`` and ``restart_errored``, as Ray takes them.

        Raises
        ------
        ExperimentMissingError
            There is nothing to restore.
        """
        config = self._placing.run_config(announces=False)
        if not _is_begun(config.storage_filesystem):
            raise ExperimentMissingError(f"there is no experiment {self.name!r} at {_uri(config)}: fit() begins one")
        return self._restored(config, _plain(param_space), restore_arguments)

    def results(self) -> tune.ResultGrid:
        """What is known of the trials, whether the experiment has ended or not; needs no Ray cluster.

        Raises
        ------
        RunMissingError
            There is none, or it has saved nothing yet.
        """
        placing = self._placing
        run = find_run(self.name, credentials=placing.credentials, artifact_storage=placing.roots.get("artifact"))
        return read_grid(run)

    def _restored(self, config: tune.RunConfig, param_space: Any, arguments: Mapping[str, Any]) -> tune.Tuner:
        errored = not arguments.get("restart_errored", False)
        chosen = {"resume_unfinished": True, "resume_errored": errored, **arguments}
        logger.info("experiment %r at %s goes on", self.name, _uri(config))
        try:
            return tune.Tuner.restore(
                f"{config.storage_path}/{config.name}",
                trainable=self.trainable,
                param_space=param_space,
                storage_filesystem=config.storage_filesystem,
                **chosen,
            )
        except ValueError as error:
            if not str(error).startswith(OTHER_THAN_IT_BEGAN):
                raise
            raise RequestError(
                f"experiment {self.name!r} at {_uri(config)} cannot go on with what is said now: {error}\n"
                f'  what to do: say what it began with, or begin anew, with another name or fit(…, resume="never")'
            ) from error


def _alone(trainable: Any) -> Any:
    return trainable


def _is_begun(filesystem: Any) -> bool:
    """Whether Tune has what it needs to go on: before its first state, an experiment begins anew."""
    names = own_files(filesystem)
    return TUNER_STATE in names and has_state(names)


def _plain(param_space: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if param_space is None else dict(param_space)


def _uri(config: tune.RunConfig) -> str:
    return carried_home(config.storage_filesystem).store.uri
