package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Spec: Q-17, S-20. Keys that cannot be had are not the client's fault: nobody
// is told to throw a token away, and no browser to give up.
func TestKeysAreAway(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.PublicURL = publicURL
		c.SubscriberJWTKey = ""
		c.SubscriberJWKSURL = "https://127.0.0.1:1/keys" // nobody listens there
		c.JWKSNetworks = "127.0.0.0/8"
		c.TrustedIssuers = issuer
	})
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := server.ParseSigningKey(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "ES256")
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.MintToken(server.TokenSpec{
		Dialect: server.Dialect1, Key: key, KeyID: "k", Issuer: issuer, Audience: publicURL, Subject: "somebody",
		Expires: inAnHour(), Subscribe: []server.MatcherSpec{{Match: "*"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := send(t, "GET", hub.URL+"?match=a", "", bearer(token))
	if a.status != 503 || a.header.Get("Retry-After") == "" || a.header.Get("WWW-Authenticate") != "" {
		t.Errorf("answered %d %v %s", a.status, a.header, a.body)
	}
	browser := append([]string{cookies(tokenCookie, token), "Last-Event-ID: some id"}, eventSource...)
	for _, method := range []string{"GET", "HEAD"} {
		a := send(t, method, hub.URL+"?match=a", "", browser...)
		if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" || a.header.Get("Mercure-Last-Event-ID") != "some id" {
			t.Errorf("%s of a browser is answered %d %v", method, a.status, a.header)
		}
	}
	got := exchange(t, hub, "GET /.well-known/mercure?match=a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"+strings.Join(browser, "\r\n")+"\r\n\r\n", false)
	if !strings.HasPrefix(got, "200 retry: ") {
		t.Errorf("a browser gets %q", got)
	}
}
