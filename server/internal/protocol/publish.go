package protocol

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// ParsePublish reads the form body of a publish request. The update has no ID
// if the request has none. Every error is a *FieldError; those about size are
// found first. Whether the publisher may publish is not checked here.
//
// Spec: P-2, P-3, P-4, P-5, P-6, P-7, P-8, P-9, P-10, P-11, P-20
func ParsePublish(body string, hub *HubURL, limits Limits) (*Update, error) {
	request, err := ParsePublishRequest(body, hub, limits)
	return request.Update, err
}

// PublishRequest is what a publisher sent.
type PublishRequest struct {
	// Update is nil if there was an error.
	Update *Update
	// Target: there is a field by which publishers of before 0.10 meant a
	// private update. It is ignored, as every unknown field is (P-3, Q-10).
	Target bool
}

// ParsePublishRequest is ParsePublish, and tells what it ignored.
func ParsePublishRequest(body string, hub *HubURL, limits Limits) (PublishRequest, error) {
	if exceeds(len(body), limits.BodyBytes) {
		return PublishRequest{}, tooLarge("body", 0, fmt.Sprintf("must be at most %d bytes long", limits.BodyBytes))
	}
	fields := collectPublishFields(body, limits)
	if err := fields.checkSizes(limits); err != nil {
		return PublishRequest{}, err
	}
	update, err := fields.update(hub)
	return PublishRequest{Update: update, Target: fields.target}, err
}

// publishFields are the fields of a publish request as sent.
type publishFields struct {
	topics []string
	// topicCount also counts the topics beyond the limit.
	topicCount int
	private    bool
	target     bool
	// data, id, typ and retry are the first occurrence of each. Spec: P-4
	data, id, typ, retry string
	seen                 map[string]bool
	// invalid names the first recognized field with bytes that are not UTF-8,
	// be it in a later occurrence.
	invalid *FieldError
}

func collectPublishFields(body string, limits Limits) *publishFields {
	f := &publishFields{seen: make(map[string]bool, 4)}
	for pair := range formPairs(body) {
		index := 0
		switch pair.Name {
		case "topic":
			f.topicCount++
			index = f.topicCount
			if !exceeds(f.topicCount, limits.Topics) {
				f.topics = append(f.topics, pair.Value)
			}
		case "private":
			// The value is none of our business, not even its encoding.
			// Spec: P-7
			f.private = true
			continue
		case "data":
			f.first("data", &f.data, pair.Value)
		case "id":
			f.first("id", &f.id, pair.Value)
		case "type":
			f.first("type", &f.typ, pair.Value)
		case "retry":
			f.first("retry", &f.retry, pair.Value)
		case "target":
			f.target = true
			continue
		default:
			continue // Spec: P-3
		}
		if f.invalid == nil && !utf8.ValidString(pair.Value) {
			f.invalid = &FieldError{
				Field:   pair.Name,
				Index:   index,
				Problem: "must be valid UTF-8; encode it as UTF-8 before percent-encoding",
			}
		}
	}
	return f
}

func (f *publishFields) first(name string, into *string, value string) {
	if !f.seen[name] {
		f.seen[name] = true
		*into = value
	}
}

// checkSizes finds what is answered with 413. Spec: TP-9, P-10, P-20, Q-29
func (f *publishFields) checkSizes(limits Limits) error {
	if exceeds(f.topicCount, limits.Topics) {
		return tooLarge("topic", 0, fmt.Sprintf("must occur at most %d times; split the update", limits.Topics))
	}
	bytesProblem := fmt.Sprintf("must be at most %d bytes long", limits.FieldBytes)
	for i, topic := range f.topics {
		if exceeds(len(topic), limits.FieldBytes) {
			return tooLarge("topic", i+1, bytesProblem)
		}
	}
	if exceeds(len(f.id), limits.FieldBytes) {
		return tooLarge("id", 0, bytesProblem)
	}
	if exceeds(len(f.typ), limits.FieldBytes) {
		return tooLarge("type", 0, bytesProblem)
	}
	if exceeds(len(f.retry), limits.RetryDigits) {
		return tooLarge("retry", 0, fmt.Sprintf("must have at most %d digits", limits.RetryDigits))
	}
	return nil
}

func tooLarge(field string, index int, problem string) error {
	return &FieldError{Field: field, Index: index, Problem: problem, TooLarge: true}
}

// update applies the rules whose violation is answered with 400.
func (f *publishFields) update(hub *HubURL) (*Update, error) {
	if f.invalid != nil {
		return nil, f.invalid
	}
	if len(f.topics) == 0 {
		return nil, &FieldError{Field: "topic", Problem: "is missing; name at least one topic"}
	}
	u := &Update{Topics: make([]string, 0, len(f.topics)), Data: f.data, Private: f.private}
	var known map[string]struct{}
	if len(f.topics) > 1 {
		known = make(map[string]struct{}, len(f.topics))
	}
	for i, topic := range f.topics {
		if _, ok := known[topic]; ok {
			continue
		}
		if err := validatePublishTopic(topic, hub); err != nil {
			err.Index = i + 1
			return nil, err
		}
		if known != nil {
			known[topic] = struct{}{}
		}
		u.Topics = append(u.Topics, topic)
	}
	// Empty optional fields count as absent. Spec: P-4, Q-12
	if f.id != "" {
		if err := validateID(f.id); err != nil {
			return nil, err
		}
		u.ID = EventID(f.id)
	}
	if f.typ != "" {
		if err := validateType(f.typ); err != nil {
			return nil, err
		}
		u.Type = f.typ
	}
	if f.retry != "" {
		retry, err := parseRetry(f.retry)
		if err != nil {
			return nil, err
		}
		u.Retry = &retry
	}
	return u, nil
}

// validatePublishTopic applies what only publishers must not do.
//
// Spec: TP-7, P-5, N-1
func validatePublishTopic(topic string, hub *HubURL) *FieldError {
	if err := validateTopic("topic", topic); err != nil {
		return err
	}
	if topic == wildcard {
		return &FieldError{Field: "topic", Problem: "must not be *, which is the wildcard of subscribers; name a topic"}
	}
	if hub.Reserved(topic) {
		return &FieldError{
			Field:   "topic",
			Problem: "must not be below the path of the hub, which is reserved for the hub's own events; choose another path",
			Excerpt: excerpt(topic),
		}
	}
	return nil
}

// parseRetry accepts ASCII digits only. Spec: P-10
func parseRetry(s string) (int64, error) {
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, &FieldError{
				Field:   "retry",
				Problem: "must be a number of milliseconds written with the digits 0 to 9 only",
				Excerpt: excerpt(s),
			}
		}
	}
	retry, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, tooLarge("retry", 0, "must be a smaller number")
	}
	return retry, nil
}
