"""Responses agree with the OpenAPI document, for valid and for invalid requests."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.worker import Worker
from tests.bundles import tiny_bundle

EXAMPLES = 60


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    bundle = tiny_bundle(tmp_path_factory.mktemp("schema")).bundle.folder
    worker = Worker(Recommender.load(bundle, threads=1))
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_api(worker))
    yield [result.ok() for result in schema.get_all_operations()]
    worker.close()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_response_is_documented_in_the_schema(operations, mode):
    assert len(operations) >= 8
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answered(case):
            # A title that fits the document may still name no item: 400 with the nearest ones.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        with suppress(Unsatisfiable):  # an operation without arguments has no wrong ones
            answered()
