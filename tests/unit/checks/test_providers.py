"""Who runs the exchangers."""

import random

import pytest

from streams.checks.providers import ORDINARY, Traits, directory, provider_of, traits_of
from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.smtp.shards import shard_name, whole_provider


def via(*names: str, domain: str = "customer.example") -> MailRoute:
    hosts = tuple(MailHost(name, 10 * n, ("192.0.2.1",)) for n, name in enumerate(names))
    return MailRoute(domain, RouteKind.MX, hosts)


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("gmail-smtp-in.l.google.com", "google"),
        ("alt1.gmail-smtp-in.l.google.com", "google"),
        ("aspmx.l.google.com", "google-workspace"),
        ("smtp.google.com", "google-workspace"),
        ("hotmail-com.olc.protection.outlook.com", "outlook.com"),
        ("customer-example.mail.protection.outlook.com", "microsoft-365"),
        ("customer-example.a-v1.mx.microsoft", "microsoft-365"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("mx01.mail.icloud.com", "icloud"),
        ("mxa-00000001.gslb.pphosted.com", "proofpoint"),
        ("mx1-eu1.ppe-hosted.com", "proofpoint-essentials"),
        ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
        ("d1.a.ess.barracudanetworks.com", "barracuda"),
        ("mx1.hc1.iphmx.com", "cisco-ironport"),
        ("mx.yandex.net", "yandex"),
        ("mxs.mail.ru", "mail.ru"),
        ("mx3.qq.com", "qq"),
        ("mxbiz1.qq.com", "tencent-exmail"),
        ("mx00.kundenserver.de", "ionos"),
        ("mx00.gmx.net", "gmx"),
        ("mx1.mail.ovh.net", "ovh"),
        ("smtpin.rzone.de", "strato"),
        ("in1-smtp.messagingengine.com", "fastmail"),
        ("mail.protonmail.ch", "protonmail"),
        ("inbound-smtp.eu-west-1.amazonaws.com", "amazon-ses"),
        ("mx1.emailsrvr.com", "rackspace"),
        ("smtp.secureserver.net", "godaddy"),
        ("mx1.privateemail.com", "namecheap-private-email"),
        ("mx1.hostinger.com", "hostinger"),
        ("mxa.mailgun.org", "mailgun"),
        ("mx.sendgrid.net", "sendgrid"),
        ("route1.mx.cloudflare.net", "cloudflare"),
        ("cluster1.eu.messagelabs.com", "messagelabs"),
        ("mx01.hornetsecurity.com", "hornetsecurity"),
        ("mx-01-eu-west-1.prod.hydra.sophos.com", "sophos"),
    ],
)
def test_the_table_knows_them(host: str, provider: str) -> None:
    assert provider_of(via(host)) == provider


def test_a_name_that_only_ends_alike_is_somebody_else() -> None:
    assert provider_of(via("mx.notyahoodns.net")) == "notyahoodns.net"


def test_others_go_by_the_registrable_domain_of_the_preferred_host() -> None:
    assert provider_of(via("mx1.mail.hoster.co.uk", "mx.other.example")) == "hoster.co.uk"
    assert provider_of(via("mx1.world.test", domain="shop.customer.test")) == "world.test"


@pytest.mark.parametrize("host", ["customer.example", "mx.customer.example"])
def test_a_domain_that_is_its_own_exchanger_goes_by_address(host: str) -> None:
    assert provider_of(via(host)) == "192.0.2.1"
    assert provider_of(via(host, domain="sub.customer.example")) == "192.0.2.1"


def test_implicit_mx_and_literals_go_by_their_lowest_address() -> None:
    own = MailHost("customer.example", 0, ("2001:db8::1", "192.0.2.10", "192.0.2.9"))
    assert provider_of(MailRoute("customer.example", RouteKind.IMPLICIT_MX, (own,))) == "192.0.2.9"
    literal = MailHost("[192.0.2.7]", 0, ("192.0.2.7",))
    assert provider_of(MailRoute("[192.0.2.7]", RouteKind.IMPLICIT_MX, (literal,))) == "192.0.2.7"


def test_without_hosts_there_is_nobody() -> None:
    assert provider_of(MailRoute("customer.example", RouteKind.NULL_MX)) == ""


def test_the_order_of_equal_hosts_makes_no_difference() -> None:
    hosts = [MailHost(f"mx.{name}.example", 10, (f"192.0.2.{n}",)) for n, name in enumerate("dbca")]
    backup = MailHost("aspmx.l.google.com", 20, ("192.0.2.9",))
    found = set()
    for seed in range(20):
        random.Random(seed).shuffle(hosts)
        found.add(provider_of(MailRoute("customer.example", RouteKind.MX, (*hosts, backup))))
    assert found == {"a.example"}


def test_traits() -> None:
    assert traits_of("yahoo") == Traits(hides_mailboxes=True, catch_all_probe_useful=False)
    assert traits_of("google") == Traits(hides_mailboxes=False, catch_all_probe_useful=False)
    assert traits_of("microsoft-365") == ORDINARY
    assert traits_of("hoster.example") is ORDINARY


def test_the_table_is_sound() -> None:
    suffix_count = sum(1 for _ in directory().by_suffix)
    assert suffix_count > 100
    assert all(suffix == suffix.lower() and "." in suffix for suffix in directory().by_suffix)
    assert set(directory().by_suffix.values()) == set(directory().traits)


def test_a_shard_of_a_provider_has_a_name_of_its_own() -> None:
    assert shard_name("google", 1, 4) == "google#1"
    assert shard_name("google", 0, 1) == "google"
    assert [whole_provider(name) for name in ("google#1", "google")] == ["google", "google"]
