package protocol

// Limits bounds what one request may contain. Zero means no limit.
type Limits struct {
	// BodyBytes bounds a request body before decoding.
	BodyBytes int
	// FieldBytes bounds each topic, id and type of a publish request.
	FieldBytes int
	// Topics bounds the topic fields of a publish request, duplicates included.
	Topics int
	// RetryDigits bounds the digits of a retry field.
	RetryDigits int
	// Matchers bounds the matchers of a subscribe request, duplicates included.
	Matchers int
	// MatcherBytes bounds each matcher of a subscribe request.
	MatcherBytes int
}

// DefaultLimits returns the limits of a hub whose operator chose none.
//
// Spec: TP-9, S-12, P-10, P-20, Q-19
func DefaultLimits() Limits {
	return Limits{
		BodyBytes:   1 << 20,
		FieldBytes:  4096,
		Topics:      1000,
		RetryDigits: 15, // fits the integers that JavaScript can represent
		Matchers:    100,

		MatcherBytes: 4096,
	}
}

// exceeds reports whether n is beyond a limit.
func exceeds(n, limit int) bool { return limit > 0 && n > limit }
