"""What a cached token costs in MSAL for Python, with many tenants in one cache.

Usage: msal_cache.py FILE, a JSON object with `authority`, `client_secret` and `tenants`. Prints one with
CPU microseconds for each call: the median of rounds for cached ones.
"""

import json
import random
import statistics
import sys
import time

import msal

SCOPES = ["https://graph.microsoft.com/.default"]
ROUNDS = 11
CALLS = 5000


def token(application):
    answer = application.acquire_token_for_client(scopes=SCOPES)
    if "access_token" not in answer:
        raise SystemExit(f"no token: {answer}")
    return answer["token_source"]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        about = json.load(file)
    cache = msal.TokenCache()
    began = time.process_time()
    applications = []
    for tenant in about["tenants"]:
        application = msal.ConfidentialClientApplication(
            tenant["client_id"],
            client_credential=about["client_secret"],
            authority=f"{about['authority']}{tenant['tenant']}",
            instance_discovery=False,
            token_cache=cache,
        )
        if token(application) != msal.ConfidentialClientApplication._TOKEN_SOURCE_IDP:
            raise SystemExit("the first token is not from the authority")
        applications.append(application)
    first = (time.process_time() - began) / len(applications)

    rounds = []
    for _ in range(ROUNDS):
        chosen = random.choices(applications, k=CALLS)
        began = time.process_time()
        for application in chosen:
            if token(application) != msal.ConfidentialClientApplication._TOKEN_SOURCE_CACHE:
                raise SystemExit("a token is not from the cache")
        rounds.append((time.process_time() - began) / CALLS)
    figures = {
        "version": msal.__version__,
        "cached_us": statistics.median(rounds) * 1e6,
        "first_us": first * 1e6,
    }
    print(json.dumps(figures))


main()
