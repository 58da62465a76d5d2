package repository

// Spec: TP-1, TP-2 to
// TP-4. Neither P-256 nor UTF-8 nor HTTP-2 is an id.
var cases = []string{
	"TP-4 name of a case",
	"this cites TP-6 in its middle",
	"TP-4, R-2 two at once",
	"TP-8",
}
