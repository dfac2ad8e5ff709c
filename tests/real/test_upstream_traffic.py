"""What many callers at once cost Entra."""

from concurrent.futures import ThreadPoolExecutor

import registration
from registration import get_token

CALLERS = 25


def test_cold_callers_share_one_request(
    recorded_broker, recorder, admin, worker, authority, application, canaries
):
    secret = registration.client_secret(application.secret)
    register = registration.register(authority.tenant, application.client_id, secret)
    canaries.identifier(register.organization_id)
    recorded_broker.organizations(admin).RegisterOrganization(register, timeout=30)
    recorder.take_token_requests()

    def ask(_):
        request = get_token(register.organization_id, "exchange")
        return recorded_broker.tokens(worker).GetToken(request, timeout=30).access_token

    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(ask, range(CALLERS))) == {recorder.token}
    [exchange] = recorder.take_token_requests()
    assert exchange.form["scope"] == "https://outlook.office365.com/.default"
