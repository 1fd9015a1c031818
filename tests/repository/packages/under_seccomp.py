"""Runs a command under a container's seccomp profile, as a runtime would.

Usage: under_seccomp.py PROFILE [--without NAME]... [--root FOLDER] -- COMMAND...

`--without` leaves a call out of what the profile allows; `--root` makes the folder the root and the
user 65532, as the image has it. The command gets no new privileges. Needs python3-seccomp (Debian),
the binding of libseccomp.
"""

import json
import os
import sys

import seccomp

OPERATORS = {
    "SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_LT": seccomp.LT,
    "SCMP_CMP_LE": seccomp.LE, "SCMP_CMP_GT": seccomp.GT, "SCMP_CMP_GE": seccomp.GE,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}


def action(rule, profile):
    if rule["action"] == "SCMP_ACT_ALLOW":
        return seccomp.ALLOW
    assert rule["action"] == "SCMP_ACT_ERRNO", rule
    return seccomp.ERRNO(rule.get("errnoRet", profile["defaultErrnoRet"]))


def argument(condition):
    operator = OPERATORS[condition["op"]]
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        return seccomp.Arg(condition["index"], operator, condition["value"], condition["valueTwo"])
    return seccomp.Arg(condition["index"], operator, condition["value"])


def main():
    options, command = sys.argv[2:], []
    if "--" in options:
        at = options.index("--")
        options, command = options[:at], options[at + 1:]
    without = {options[n + 1] for n, word in enumerate(options) if word == "--without"}
    with open(sys.argv[1]) as file:
        profile = json.load(file)
    default = seccomp.ERRNO(profile["defaultErrnoRet"])
    filters = seccomp.SyscallFilter(defaction=default)
    rules = 0
    for rule in profile["syscalls"]:
        for name in set(rule["names"]) - without:
            try:
                number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
            except (ValueError, RuntimeError, OverflowError):
                number = -1
            # Another architecture's, or newer than this libseccomp.
            if number < 0:
                continue
            filters.add_rule(action(rule, profile), name, *map(argument, rule.get("args", [])))
            rules += 1
    assert rules > 250, rules
    if "--root" in options:
        os.chroot(options[options.index("--root") + 1])
        os.chdir("/")
        os.setgroups([])
        os.setgid(65532)
        os.setuid(65532)
    filters.load()
    os.execvp(command[0], command)


main()
