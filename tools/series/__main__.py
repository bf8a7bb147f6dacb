#
# Licensed to the Apache Software Foundation (ASF) under one or more
# contributor license agreements.  See the NOTICE file distributed with
# this work for additional information regarding copyright ownership.
# The ASF licenses this file to You under the Apache License, Version 2.0
# (the "License"); you may not use this file except in compliance with
# the License.  You may obtain a copy of the License at
#
#    http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
#

"""The command line: python -m tools.series COMMAND."""

import argparse
import sys
from pathlib import Path

from tools.layout import Layout
from tools.layout import ToolError
from tools.layout import here
from tools.series import check
from tools.series import export
from tools.series import pull_request
from tools.series import report
from tools.series import tree
from tools.series import upstream


def main(argv: list[str] | None = None, layout: Layout | None = None) -> int:
  """Runs a command and returns the exit status: 0, or 1 with a message."""
  args = _parser().parse_args(argv)
  layout = layout or here()
  try:
    if args.command == 'check':
      return _check(layout)
    print({
        'fetch': lambda: upstream.fetch(layout),
        'apply': lambda: tree.apply(layout, args.to, args.resume),
        'export': lambda: _export(layout),
        'status': lambda: report.table(layout),
        'mbox': lambda: report.mbox(layout, args.out, args.track),
    }[args.command]())
  except ToolError as e:
    print(f'series {args.command}: {e}', file=sys.stderr)
    return 1
  return 0


def _export(layout: Layout) -> str:
  done = export.export(layout)
  report.update_page(layout)
  return done


def _check(layout: Layout) -> int:
  found = check.problems(layout)
  for line in found:
    print(line, file=sys.stderr)
  print(
      f'series check: {len(found)} problems.' if found else 'series check: ok')
  return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m tools.series', description='The patch series.')
  commands = parser.add_subparsers(dest='command', required=True)
  commands.add_parser('fetch', help='download the pinned source distribution')
  apply = commands.add_parser('apply', help='make build/beam from the series')
  how = apply.add_mutually_exclusive_group()
  how.add_argument(
      '--to', help='stop behind this pull request (number or name)')
  how.add_argument(
      '--continue',
      dest='resume',
      action='store_true',
      help='take over what was finished by hand in build/apply')
  commands.add_parser('export', help='write build/beam to patches/ and sdks/')
  commands.add_parser('check', help='check the rules of the series')
  commands.add_parser('status', help='print the table of pull requests')
  mbox = commands.add_parser('mbox', help='write mails for git am')
  mbox.add_argument('--out', type=Path, required=True, help='a new folder')
  mbox.add_argument(
      '--track', choices=pull_request.TRACKS, help='only this one')
  return parser


if __name__ == '__main__':
  sys.exit(main())
