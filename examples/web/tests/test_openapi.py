"""The API keeps to its own document, whatever schemathesis thinks of."""

import httpx
import pytest
import schemathesis
from conftest import PATIENCE
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

EXAMPLES = 40
load_all_checks()
# What the document allows may still be refused: references that are not there, sizes beyond the server's limits.
EXCLUDED = [CHECKS.get_one("positive_data_acceptance")]
# Nor is it wrong what is left of a form whose wrong values were not sent.
REFUSAL = CHECKS.get_one("negative_data_rejection")
# Streams without an end are followed in test_jobs.py.
ENDLESS = "/events"


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_the_document_says(shared, subtests, mode):
    schema = schemathesis.openapi.from_url(f"{shared.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        if operation.path.endswith(ENDLESS):
            continue
        with subtests.test(operation.label):
            strategy = operation.as_strategy(generation_mode=mode)

            @given(case=strategy)
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            )
            def answers(case):
                excluded = [*EXCLUDED, REFUSAL] if is_partly_sent(case) else EXCLUDED
                case.call_and_validate(excluded_checks=excluded, timeout=PATIENCE)

            try:
                answers()
            except Unsatisfiable:
                # There is nothing wrong to send where nothing is taken.
                assert mode is GenerationMode.NEGATIVE
    assert shared.get("/health")["status"] == "ok"


def is_partly_sent(case):
    """Whether schemathesis leaves out some of a form: forms have texts and files, and no place for null and lists."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return False
    return any(value is None or isinstance(value, list | dict) for name, value in case.body.items() if name != "image")


def test_the_document_is_openapi(shared):
    document = httpx.get(f"{shared.url}/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "id" in document["components"]["schemas"]["Job"]["required"]
