// A contestant of `mailvet bench engine`: AfterShip's email-verifier, N addresses in flight.
// Reads addresses on standard input, says "ready", prints "address<TAB>verdict" for each.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"sync"

	emailverifier "github.com/AfterShip/email-verifier"
)

func verdict(result *emailverifier.Result, err error) string {
	switch {
	case err != nil:
		return "unknown"
	case !result.Syntax.Valid, result.Reachable == "no":
		return "undeliverable"
	case result.Reachable == "yes":
		return "deliverable"
	}
	return "unknown"
}

func main() {
	inFlight, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: aftership N <addresses")
		os.Exit(2)
	}
	var addresses []string
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		addresses = append(addresses, scanner.Text())
	}
	verifier := emailverifier.NewVerifier().EnableSMTPCheck().HelloName("bench.test").FromEmail("probe@bench.test")
	fmt.Println("ready")

	work := make(chan string, inFlight)
	said := make(chan string, inFlight)
	var workers sync.WaitGroup
	for range inFlight {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for address := range work {
				result, err := verifier.Verify(address)
				said <- address + "\t" + verdict(result, err) + "\n"
			}
		}()
	}
	go func() {
		for _, address := range addresses {
			work <- address
		}
		close(work)
		workers.Wait()
		close(said)
	}()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for line := range said {
		out.WriteString(line)
	}
}
