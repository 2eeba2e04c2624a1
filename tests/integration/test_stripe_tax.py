"""Stripe Tax against the simulator as a process, and its requests against the SDK's description of them."""

import asyncio
import inspect
import re

import pytest
import stripe
from stripe.params.tax import CalculationCreateParams

from domain.errors import DependencyError, RejectedError
from domain.orders.parts import is_sound
from domain.pricing import terms
from domain.pricing.terms import Wanted
from storage.stripe_tax import StripeTax, parameters
from tests.contracts.tax_calculators import TaxCalculatorContract, question
from tests.fakes.stripe_process import SECRET_KEY, StripeProcess
from tests.fakes.terms import offer, rules

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    process = StripeProcess(tmp_path_factory.mktemp("stripe"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def made(simulator):
    both = {
        behaviour: StripeTax(SECRET_KEY, simulator.url, behaviour) for behaviour in ("inclusive", "exclusive")
    }
    yield both
    for one in both.values():
        await one.close()


class TestTaxOnTop(TaxCalculatorContract):
    inclusive = False

    @pytest.fixture
    def calculator(self, made):
        return made["exclusive"]


class TestTaxInThePrice(TaxCalculatorContract):
    inclusive = True

    @pytest.fixture
    def calculator(self, made):
        return made["inclusive"]


async def test_jurisdictions_of_a_place_become_accounts(made):
    (line,) = await made["exclusive"].taxes(
        question(1_999, country="US", postal_code="90012", currency="USD")
    )
    assert [(tax.jurisdiction, tax.rate_ppm, tax.amount_minor) for tax in line] == [
        ("US_CA", 60_000, 120),
        ("US_CA_LOSANGELESCOUNTY", 2_500, 5),
        ("US_CA_LOSANGELESCOUNTYDISTRICT", 35_000, 70),
    ]
    (sold,) = terms.lines([Wanted(offer(1_999), 1)], [0], [line], rules(), platform_discount=False)
    assert is_sound(sold)
    assert sold.amount_minor == 2_194


async def test_where_we_are_not_registered_nothing_is_collected(made):
    assert await made["exclusive"].taxes(question(1_000, country="BR")) == [()]


async def test_an_address_that_cannot_be_placed_is_the_buyers_to_mend(made):
    with pytest.raises(RejectedError, match="tax_refused"):
        await made["exclusive"].taxes(question(1_000, country="US", currency="USD"))


async def test_without_stripe_nothing_is_guessed():
    nobody = StripeTax(SECRET_KEY, "http://127.0.0.1:1", "exclusive")
    with pytest.raises(DependencyError, match="tax_unavailable"):
        await nobody.taxes(question(1_000))
    await nobody.close()


def test_a_behaviour_that_there_is_not_is_refused_at_once():
    with pytest.raises(ValueError, match="inclusive"):
        StripeTax(SECRET_KEY, "http://127.0.0.1:1", "sometimes")


def test_the_sdk_itself_takes_the_same_request(simulator):
    client = stripe.StripeClient(SECRET_KEY, base_addresses={"api": simulator.url})
    params = parameters(question(1_000, 0, 500, postal_code="10115"), "inclusive")
    made = client.v1.tax.calculations.create(params)
    assert (made.object, made.tax_amount_inclusive, made.amount_total) == ("tax.calculation", 240, 1_500)
    assert [line.reference for line in made.line_items.data] == ["1", "3"]
    bare = client.v1.tax.calculations.create({**params, "expand": ["line_items"]})
    assert [line.tax_breakdown for line in bare.line_items.data] == [None, None]


def shape_of(params, typed, where=""):
    """Check a request against a TypedDict of the SDK, which is generated from Stripe's OpenAPI."""
    module = inspect.getmodule(typed)
    for name, value in params.items():
        assert name in typed.__annotations__, f"{where}{name} is no parameter"
        nested = re.search(r"CalculationCreateParams\w+", str(typed.__annotations__[name]))
        if nested is None:
            assert isinstance(value, int | str | list), where + name
            continue
        for member in value if isinstance(value, list) else [value]:
            shape_of(member, getattr(module, nested[0]), f"{where}{name}.")
    needed = [name for name, kind in typed.__annotations__.items() if "NotRequired" not in str(kind)]
    assert set(needed) <= set(params), f"{where} lacks one of {needed}"


def test_requests_have_the_shape_that_stripe_describes():
    params = parameters(question(1_000, 500, country="US", postal_code="90012"), "exclusive")
    shape_of(params, CalculationCreateParams)
    with pytest.raises(AssertionError, match="no parameter"):
        shape_of({**params, "customer_details": {"adress": {}}}, CalculationCreateParams)
    with pytest.raises(AssertionError, match="lacks"):
        shape_of({**params, "line_items": [{"reference": "1"}]}, CalculationCreateParams)


async def test_many_at_once_are_answered_each_for_itself(made):
    asked = [question(1_000 + n, 5) for n in range(30)]
    answers = await asyncio.gather(*(made["inclusive"].taxes(one) for one in asked))
    for one, answer in zip(asked, answers, strict=True):
        amount = one.lines[0].amount_minor
        assert answer[0][0].amount_minor == amount - (2 * amount * 100 + 119) // 238
