"""What the answers of Google Cloud Storage mean."""

from __future__ import annotations

from ray_anystorage import errors
from ray_anystorage.diagnosis.obstore_probe import ObstoreProbe
from ray_anystorage.environment import Problem
from ray_anystorage.transfer.failures import Attempt, denied, no_credentials


class GcsProbe(ObstoreProbe):
    """A bucket of Google Cloud Storage."""

    def explain_answer(self, status: int, code: str, said: str, attempt: Attempt) -> Problem:
        """The problem behind an answer of the store, or of the service that gives tokens."""
        said = said.partition("\n")[0]
        if "token request" in said:
            return no_credentials(said, attempt)
        if status == 401:
            remedy = (
                f"Get new credentials ({self._grant.source}): a new key, or 'gcloud auth application-default login'."
            )
            return attempt.problem(errors.ExpiredTokenError, f"the store does not accept the token; {said}", remedy)
        if status == 403:
            return denied(said, attempt)
        if status == 404 and attempt.operation in ("list", "put"):
            remedy = f"Create the bucket {self._address.bucket!r}, or correct its name."
            return attempt.problem(errors.BucketMissingError, f"the bucket does not exist; {said}", remedy)
        return attempt.problem(errors.BucketError, said, "Try it again; ask the store's owner.")
