package server

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"time"
)

// DefaultConfig returns the settings of a hub whose operator chose none.
func DefaultConfig() Config {
	var c Config
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		text, ok := v.Type().Field(i).Tag.Lookup("default")
		if !ok {
			continue
		}
		if err := setText(v.Field(i).Addr().Interface(), text); err != nil {
			panic(fmt.Errorf("default of %s: %w", v.Type().Field(i).Name, err))
		}
	}
	return c
}

func setText(target any, text string) error {
	switch t := target.(type) {
	case encoding.TextUnmarshaler:
		return t.UnmarshalText([]byte(text))
	case *string:
		*t = text
	case *int:
		n, err := strconv.Atoi(text)
		*t = n
		return err
	case *time.Duration:
		d, err := time.ParseDuration(text)
		*t = d
		return err
	default:
		return fmt.Errorf("unsupported type %T", target)
	}
	return nil
}

// Setting describes one setting of a Config.
type Setting struct {
	Variable, Flag, Default, Help string
}

// Settings lists every setting, in the order of Config.
func Settings() []Setting {
	var list []Setting
	t := reflect.TypeFor[Config]()
	for field := range t.Fields() {
		tag := field.Tag
		if variable := tag.Get("setting"); variable != "" {
			list = append(list, Setting{
				Variable: variable, Flag: "--" + tag.Get("name"), Default: tag.Get("default"), Help: tag.Get("help"),
			})
		}
	}
	return list
}
