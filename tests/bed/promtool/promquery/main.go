// Command promquery answers PromQL from blocks on disk, by Prometheus' own engine and storage and without a server.
//
//	promquery DIR START END STEP LOOKBACK < expressions
//
// reads one expression per line and writes one line of JSON for each: its series as query_range of Prometheus' HTTP
// API gives them. Times are in Unix seconds; step and lookback in seconds: blocks that were made from text hold no mark
// where a series ends, which a scrape that fails leaves, so the lookback says how long a value stands. bed/prometheus.py
// runs it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"
)

func main() {
	if err := answer(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(arguments []string) error {
	if len(arguments) != 5 {
		return fmt.Errorf("usage: promquery DIR START END STEP LOOKBACK < expressions")
	}
	var numbers [4]int64
	for i, text := range arguments[1:] {
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		numbers[i] = number
	}
	db, err := tsdb.OpenDBReadOnly(arguments[0], "", nil)
	if err != nil {
		return err
	}
	defer db.Close()
	start, end := time.Unix(numbers[0], 0), time.Unix(numbers[1], 0)
	step, lookback := time.Duration(numbers[2])*time.Second, time.Duration(numbers[3])*time.Second
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: lookback})
	lines, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for lines.Scan() {
		query, err := engine.NewRangeQuery(context.Background(), db, nil, lines.Text(), start, end, step)
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		result := query.Exec(context.Background())
		if result.Err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), result.Err)
		}
		if err := out.Encode(result.Value); err != nil {
			return err
		}
		query.Close()
	}
	return lines.Err()
}
