"""A certificate authority for the peers that Outrigger is compared with: P-256 leaves with SPIFFE IDs, as its own are.

It signs nothing but the two proxies of a pair, for which it is made anew with each run.
"""

from dataclasses import dataclass
from pathlib import Path

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass
class Leaf:
    """A certificate and its key, apart and in one file."""

    spiffe_id: str
    certificate: Path
    key: Path
    both: Path


@dataclass
class Authority:
    """The root, and a leaf for each side."""

    root: Path
    outbound: Leaf
    inbound: Leaf


def make(bed):
    """Makes the root and both leaves in the bed's directory."""
    root, key = bed.directory / "ca.crt", bed.directory / "ca.key"
    bed.run(["openssl", "req", "-x509", *KEY, "-keyout", key, "-out", root, "-days", "2", "-subj", "/CN=bench",
             "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"], 10)

    def leaf(account):
        base = bed.directory / account
        request, extensions = base.with_suffix(".csr"), base.with_suffix(".ext")
        made = Leaf(f"spiffe://bench.mesh/ns/demo/sa/{account}", base.with_suffix(".crt"), base.with_suffix(".key"),
                    base.with_suffix(".pem"))
        # The DNS name is for pingora's connector, which knows no other.
        extensions.write_text(f"subjectAltName=critical,URI:{made.spiffe_id},DNS:{account}.demo.mesh\n"
                              "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
                              "basicConstraints=critical,CA:FALSE\n")
        bed.run(["openssl", "req", *KEY, "-keyout", made.key, "-out", request, "-subj", "/O=bench"], 10)
        bed.run(["openssl", "x509", "-req", "-in", request, "-CA", root, "-CAkey", key, "-CAcreateserial",
                 "-days", "1", "-extfile", extensions, "-out", made.certificate], 10)
        made.both.write_text(made.certificate.read_text() + made.key.read_text())
        return made

    return Authority(root, leaf("front"), leaf("price"))
