#!/usr/bin/env python
"""Run any stage as a Ray job: on a Ray head started here for the job, or on a cluster (--address).

    python launch/submit.py -- synthesize --config synthesis/miniature --fleet.kind ray --fleet.workers 2
    python launch/submit.py --address http://head:8265 --env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY -- \\
        synthesize --config synthesis/miniature --fleet.kind ray --fleet.workers 64 --run.out s3://bucket/set

Every Ray process asks for the token named by RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (made when there is none): give the
cluster's. A cluster gets a copy of this checkout without runs/, so --run.out must be s3:// or a shared folder there.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from styleavatar3d.errors import StyleAvatarError, require  # noqa: E402
from styleavatar3d.runtime.ray_fleet import local_head, ray_token, run_job  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="http:// address of a head's dashboard; left out: a head is started here")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="variable handed to the job")
    parser.add_argument("words", nargs="+", help="-- VERB and its options")
    given = parser.parse_args()
    os.environ.update(ray_token())  # Ray reads it when it is imported
    require("ray", "ray")
    environment = {name: os.environ[name] for name in given.env}
    words = ["-m", "styleavatar3d", *given.words]
    if given.address:
        copied = {"working_dir": str(CHECKOUT), "excludes": ["/runs", "/.git", "/.venv"]}
        done = run_job(given.address, shlex.join(["python", *words]), {"env_vars": environment, **copied})
    else:
        here = {"PYTHONPATH": str(CHECKOUT), **environment}
        with local_head() as address:
            done = run_job(address, shlex.join(["env", "-C", os.getcwd(), sys.executable, *words]), {"env_vars": here})
    return 0 if done else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StyleAvatarError as error:
        sys.exit(str(error))
