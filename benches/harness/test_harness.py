"""What the figures are made with: `python3 benches/harness/test_harness.py`."""

import json
import tempfile
import unittest
import xml.etree.ElementTree as xml

import compare
import density
import host
import report
import scaling
import servers


def run(round_, cpu, **more):
    return {"round": round_, "cpu_us": cpu, "ok": True, "per_second": 10.0, **more}


def cell(**runs):
    return {
        "kind": "echo", "connections": 10, "payload": 32, "pipeline": 1, "rate": 0, "large": 0,
        "host": {**FACTS}, "runs": runs,
    }


FACTS = {
    "date": "2026-01-02", "kernel": "Linux 6", "cpu": "a processor", "processors": 2,
    "memory_gib": 24, "commit": "abc", "open_files": 20_000,
}
SLABS = """slabinfo - version: 2.1
# name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables : slabdata
TCP 100 130 2368 13 8 : tunables 0 0 0 : slabdata 10 10 0
buffer_head 500 500 104 39 1 : tunables 0 0 0 : slabdata 13 13 0
"""


class Scaling(unittest.TestCase):
    COSTS = {name: cost for name, (cost, _) in scaling.COSTS.items()}

    def figures(self, kind, **more):
        given = {"connections": 10_000, "nodes": 10, "brokers": 1, "cores": 4, **more}
        kinds = [scaling.Kind.parse(kind)]
        return dict(scaling.plan(kinds=kinds, costs=self.COSTS, seed=7, **given))

    def test_a_channel_is_where_its_members_are(self):
        draw = scaling.random.Random(7)
        for members, nodes in [(1, 10), (2, 10), (10, 4), (100, 10), (50_000, 10)]:
            kind = scaling.Kind("a", 1_000, members, 1.0, False)
            expected = nodes * (1 - (1 - 1 / nodes) ** members)
            self.assertAlmostEqual(scaling.spread(kind, nodes, draw), expected, delta=0.05)

    def test_sums(self):
        own = self.figures("user=10kx1@1k")
        self.assertEqual(own["channels to which a node listens"], "1,000")
        self.assertEqual(own["messages from Redis to a node"], "100/s")
        self.assertEqual(own["deliveries of a node"], "100/s")
        # Each of 1,000 connections has a channel that no other node knows.
        self.assertEqual(own["channels that Redis is asked for then"], "1,000")
        # 1,000 times 2.2 us and one copy of 1.5.
        self.assertEqual(own["of a Redis, of one core"], "0 %")
        everybody = self.figures("all=1x100k@10")
        self.assertEqual(everybody["deliveries of a node"], "100,000/s")
        self.assertEqual(everybody["channels that Redis is asked for then"], "0")
        alone = self.figures("user=10kx1@1k", nodes=1)
        self.assertNotIn("until they are served", alone)

    def test_kinds_are_checked(self):
        kind = scaling.Kind.parse("room=1.5kx2@0.5k+")
        self.assertEqual((kind.channels, kind.members, kind.rate, kind.kept), (1500, 2, 500, True))
        for text in ["room", "room=1@2", "room=0x1@2", "room=1x1@x", "room=1x1@-1", "a=1.5x1@1"]:
            with self.assertRaises(scaling.argparse.ArgumentTypeError):
                scaling.Kind.parse(text)


class Report(unittest.TestCase):
    def test_ratios_are_made_within_a_round(self):
        both = cell(floor=[run(0, 2.0), run(1, 4.0)], other=[run(1, 5.0), run(0, 3.0)])
        self.assertEqual(report.ratios(both, "other"), [1.25, 1.5])
        self.assertEqual(report.reference(both), "floor")
        self.assertEqual(report.reference(cell(b=[run(0, 1.0)], a=[run(0, 1.0)])), "b")

    def test_a_round_that_failed_has_no_ratio(self):
        floor = [run(0, 2.0), {"round": 1, "failed": "x"}]
        both = cell(floor=floor, other=[run(0, 3.0), run(1, 9.0)])
        self.assertEqual(report.ratios(both, "other"), [1.5])
        self.assertIn("1 of 2 not whole: x", report.remarks(both, both["runs"]["floor"]))

    def test_who_does_not_keep_up_is_marked(self):
        rated = dict(cell(a=[run(0, 1.0)]), rate=100)
        self.assertIn("below the rate", report.remarks(rated, rated["runs"]["a"]))
        self.assertEqual(report.remarks(dict(rated, rate=10), rated["runs"]["a"]), "")

    def test_the_files_are_read_again_and_the_chart_is_xml(self):
        with tempfile.TemporaryDirectory() as folder:
            first = report.Results(folder, "x", keep=False)
            first.put("echo-1", cell(floor=[run(0, 2.0)], **{"a<b": [run(0, 3.0)]}), FACTS)
            second = report.Results(folder, "x", keep=True)
            second.put("echo-2", cell(floor=[run(0, 2.0)]), FACTS)
            table, stored, chart = (path.read_text() for path in second.paths())
        self.assertEqual(list(json.loads(stored)["cells"]), ["echo-1", "echo-2"])
        self.assertIn("| echo-1 | a<b | 1 |", table)
        self.assertIn("1.500 (1.50–1.50)", table)
        self.assertIn("Linux 6, a processor, 2 processors", table)
        dots = [it for it in xml.fromstring(chart).iter() if it.tag.endswith("title")]
        self.assertEqual(len(dots), 3)

    def test_the_edges_of_the_chart_hold(self):
        self.assertEqual(report.across(0.01), report.LEFT)
        self.assertAlmostEqual(report.across(1e9), report.LEFT + report.WIDTH)


class Servers(unittest.TestCase):
    def test_who_takes_part(self):
        cells = {it.name: it for it in compare.workloads()}
        by_name = {it.name: it for it in servers.built_in(servers.BUILT_IN)}
        can = lambda server, name: by_name[server].can(cells[name], 19_800)
        self.assertTrue(all(can(name, "echo-32-10000") for name in servers.BUILT_IN))
        able = [name for name in servers.BUILT_IN if can(name, "fanout-32-100000")]
        self.assertEqual(able, ["floor", "ringhold"])
        self.assertFalse(can("compio", "fanout-32-1000"))

    def test_the_ways_into_the_kernel_are_beside_each_other(self):
        commands = [server.command(compare.QUICK[0], 7, 100) for server in servers.built_in(
            ["ringhold", "ringhold-epoll"])]
        ways = [words[words.index("--io") + 1] for words in commands]
        self.assertEqual(ways, ["uring", "epoll"])

    def test_commands_are_filled_in(self):
        server = servers.Server("x", "run {port} 'a b' {payload} {workers}")
        large = compare.Workload("m", "mixed", 10, 32, large=4096)
        self.assertEqual(server.command(large, 7, 100), ["run", "7", "a b", "4096", "1"])
        many = compare.Workload("m", "echo", 90)
        self.assertEqual(server.command(many, 7, 100)[-1], "0")

    def test_servers_over_tls_have_their_url_and_their_certificate(self):
        for server in servers.built_in(servers.OVER_TLS):
            words = server.command(compare.QUICK[0], 7, 100)
            self.assertTrue({str(servers.CERT), str(servers.KEY)} <= set(words), words)
            self.assertEqual(server.url(compare.QUICK[0], 7), "wss://127.0.0.1:7/")
        fanout = next(it for it in compare.QUICK if it.kind == "fanout")
        self.assertEqual(servers.Server("x", "", "").url(fanout, 7), "ws://127.0.0.1:7/fanout")

    def test_every_workload_belongs_to_a_section(self):
        kinds = {kind for kind, _, _ in report.SECTIONS}
        cells = compare.workloads() + compare.QUICK
        self.assertEqual({it.kind for it in cells}, kinds)
        self.assertEqual(len({it.name for it in cells}), len(cells))


class Density(unittest.TestCase):
    def test_objects_and_the_ends_of_their_slabs(self):
        found, pages = host.parse_slabs(SLABS)
        self.assertEqual(pages, 10 * 8 + 13)
        self.assertEqual(found["TCP"], 236_800)
        self.assertAlmostEqual(found[host.Slabs.WASTE], 100 * (8 * host.PAGE / 13 - 2368))
        self.assertNotIn("buffer_head", found)

    def test_the_servers_part_is_what_the_clients_is_not(self):
        both, client = {"both": {"TCP": 10.0, "kiocb": 4.0}}, {"TCP": 5.0, "bind": 1.0}
        found = density.server_caches(both, client)
        self.assertEqual(found, {"TCP": 5.0, "kiocb": 4.0, "bind": -1.0})

    def test_each_way_has_its_column(self):
        server = lambda size: {"both": {"TCP": size + 5.0}, "server": {"TCP": size}, "user": 100.0}
        runs = {"uring": server(10.0), "epoll": server(30.0)}
        lines = density.table({"bare": {"TCP": 5.0}, "client": {"TCP": 5.0}, "runs": runs})
        head = "| bytes per connection | uring | epoll | bare accepted socket | client | both ends |"
        self.assertEqual(lines[0], head)
        self.assertIn("| `TCP` | 10 | 30 | 5 | 5 | 15 |", lines)
        self.assertIn("| **all in** | **110** | **130** |  |  |  |", lines)

    def test_the_counters_while_all_were_open(self):
        text = "x open=5 heartbeats_sent=1\nx open=10 heartbeats_sent=7\nx open=1 heartbeats_sent=9"
        self.assertEqual(density.last_stats(text, 10)["heartbeats_sent"], 7)
        self.assertEqual(density.last_stats("no counters", 10), {})


class Host(unittest.TestCase):
    def test_a_server_that_ends_says_why(self):
        with self.assertRaisesRegex(RuntimeError, "no such thing"):
            host.serve(["sh", "-c", "echo no such thing >&2; exit 1"], host.free_port())

    def test_settings_are_put_back(self):
        class Fake(host.Settings):
            @staticmethod
            def path(name):
                return host.Path(folder) / name

        with tempfile.TemporaryDirectory() as folder:
            file = host.Path(folder) / "tcp_mem"
            file.write_text("1\t2\t3\n")
            settings = Fake()
            settings.set("tcp_mem", "4 5 6")
            settings.set("tcp_mem", "7 8 9")
            self.assertEqual(file.read_text(), "7 8 9")
            settings.restore()
            self.assertEqual(file.read_text(), "1 2 3")


if __name__ == "__main__":
    unittest.main()
