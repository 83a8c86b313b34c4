"""What DNS says: a query in, a response or silence out, without I/O (RFC 1034, RFC 2308)."""

from collections.abc import Mapping

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from ops.world.personality import DnsFault, Records

MAX_ALIASES = 8
_SOA = "ns.mailvet.test. hostmaster.mailvet.test. 1 3600 600 86400 {ttl}"
_RCODES = {DnsFault.SERVFAIL: dns.rcode.SERVFAIL, DnsFault.REFUSED: dns.rcode.REFUSED}


class Zone:
    """All names of the world. Names outside ``.test`` are refused, so that nobody takes this for the real DNS."""

    def __init__(self, names: Mapping[str, Records], addresses: Mapping[str, str], ttl_s: int) -> None:
        self._names = dict(names)
        self._addresses = addresses
        self._ttl_s = ttl_s
        self._existing = {parent for name in names for parent in _with_parents(name)}

    def records(self, name: dns.name.Name) -> Records | None:
        """What is known of a name; it need not be absolute or in lower case."""
        return self._names.get(_key(name))

    def answer(self, query: dns.message.Message) -> tuple[dns.message.Message, DnsFault | None]:
        """The response, and how its sending fails (``SILENT``: not at all, ``LATE``: later)."""
        response = dns.message.make_response(query, recursion_available=True, our_payload=1232)
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
            return response, None
        if len(query.question) != 1 or query.question[0].rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.FORMERR)
            return response, None
        name, kind = query.question[0].name, query.question[0].rdtype
        records = self.records(name)
        if not name.is_subdomain(dns.name.from_text("test.")):
            response.set_rcode(dns.rcode.REFUSED)
        elif records and records.fault in _RCODES:
            response.set_rcode(_RCODES[records.fault])
        else:
            self._fill(response, name, kind)
        return response, records.fault if records else None

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> None:
        for _ in range(MAX_ALIASES):
            records = self.records(name)
            if records is None or records.cname is None or kind == dns.rdatatype.CNAME:
                break
            self._add(response, name, dns.rdatatype.CNAME, [f"{records.cname}."])
            name = dns.name.from_text(records.cname)
        data = self._data(records, kind) if records else []
        if data:
            self._add(response, name, kind, data)
            return
        if records is None and _key(name) not in self._existing:
            response.set_rcode(dns.rcode.NXDOMAIN)
        soa = dns.rrset.from_text("test.", self._ttl_s, "IN", "SOA", _SOA.format(ttl=self._ttl_s))
        response.authority.append(soa)

    def _add(
        self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType, data: list[str]
    ) -> None:
        response.answer.append(dns.rrset.from_text(name, self._ttl_s, dns.rdataclass.IN, kind, *data))

    def _data(self, records: Records, kind: dns.rdatatype.RdataType) -> list[str]:
        if kind == dns.rdatatype.MX:
            return [_mx(place, name) for place, name in enumerate(records.mx, start=1)]
        if kind == dns.rdatatype.A:
            return [self._addresses.get(item, item) for item in records.a]
        if kind == dns.rdatatype.AAAA:
            return list(records.aaaa)
        if kind == dns.rdatatype.TXT and records.txt:
            return [f'"{records.txt}"']
        return [f"{records.cname}."] if kind == dns.rdatatype.CNAME and records.cname else []


def _mx(place: int, name: str) -> str:
    return "0 ." if name == "." else f"{place * 10} {name}."


def _key(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _with_parents(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]
